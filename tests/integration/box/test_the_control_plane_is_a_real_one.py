"""The API server of a box: versions, authorization, admission, webhooks on the host, restarts."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from mica_box.errors import BoxError
from mica_box.kwok import add_plain_nodes
from mica_box.testing import RunningBox

REFUSAL = "refused by the webhook on the host"


def test_programs_and_server_report_the_pinned_version(cluster: RunningBox, workshop: Any) -> None:
    said = json.loads(cluster.kubectl("version", "-o", "json"))
    assert said["clientVersion"]["gitVersion"] == f"v{workshop.versions.kubernetes}"
    assert said["serverVersion"]["gitVersion"] == f"v{workshop.versions.kubernetes}"


def test_a_user_without_a_role_is_refused(cluster: RunningBox) -> None:
    with pytest.raises(BoxError, match="forbidden"):
        cluster.kubectl("get", "pods", "--as=nobody")


def test_a_node_may_write_its_own_node_and_no_other(cluster: RunningBox) -> None:
    as_node = ("--as=system:node:mine", "--as-group=system:nodes")
    for name in ("mine", "other"):
        cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    cluster.kubectl("annotate", "node", "mine", "a=b", "--overwrite", *as_node)
    with pytest.raises(BoxError, match="only its own Node object"):
        cluster.kubectl("annotate", "node", "other", "a=b", "--overwrite", *as_node)
    cluster.kubectl("delete", "node", "mine", "other")


def test_an_admission_policy_is_enforced(cluster: RunningBox) -> None:
    meta = {"name": "no-evil.example.dev"}
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]
    policy = {
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "object.metadata.name != 'evil'", "message": "no evil"}],
    }
    group = {"apiVersion": "admissionregistration.k8s.io/v1"}
    cluster.apply(
        {**group, "kind": "ValidatingAdmissionPolicy", "metadata": meta, "spec": policy},
        {
            **group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": meta,
            "spec": {"policyName": meta["name"], "validationActions": ["Deny"]},
        },
    )
    assert "no evil" in refusal_of_a_config_map(cluster, "evil")
    cluster.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", meta["name"])


def refusal_of_a_config_map(cluster: RunningBox, name: str) -> str:
    """What the API server says once its rules are in force, which takes about a second."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            cluster.kubectl("create", "configmap", name, "--dry-run=server")
        except BoxError as error:
            return error.what
        time.sleep(0.2)
    return "accepted"


class Refuse(http.server.BaseHTTPRequestHandler):
    """An admission webhook that says no."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": REFUSAL}}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def webhook(cluster: RunningBox) -> Iterator[dict[str, str]]:
    """Client configuration of a webhook that runs on the host."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(cluster.host_ip).configure_cert(context)
    with http.server.ThreadingHTTPServer((cluster.host_ip, 0), Refuse) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
        yield {"url": f"https://{cluster.host_ip}:{server.server_address[1]}/", "caBundle": bundle}
        server.shutdown()
        thread.join()


def test_the_api_server_calls_a_webhook_that_runs_on_the_host(cluster: RunningBox, webhook: dict[str, str]) -> None:
    hook = {
        "name": "refuse.example.dev",
        "clientConfig": webhook,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "matchConditions": [{"name": "mine", "expression": "object.metadata.name == 'hooked'"}],
    }
    kind = "ValidatingWebhookConfiguration"
    api = "admissionregistration.k8s.io/v1"
    cluster.apply({"apiVersion": api, "kind": kind, "metadata": {"name": "refuse"}, "webhooks": [hook]})
    try:
        assert REFUSAL in refusal_of_a_config_map(cluster, "hooked")
    finally:
        cluster.kubectl("delete", kind, "refuse")


def test_fake_nodes_become_ready(cluster: RunningBox) -> None:
    add_plain_nodes(cluster.box, 2)
    ready = {
        node["metadata"]["name"]
        for node in cluster.get("nodes", "-l", "type=kwok")["items"]
        for condition in node["status"]["conditions"]
        if (condition["type"], condition["status"]) == ("Ready", "True")
    }
    assert ready >= {"kwok-0", "kwok-1"}


def test_fake_nodes_say_again_and_again_that_they_are_alive(cluster: RunningBox) -> None:
    """Controllers take the readiness from all pods of a node that is silent for 50 s, and kwok never gives it back."""
    add_plain_nodes(cluster.box, 1)
    renewals: set[str] = set()
    deadline = time.monotonic() + 40
    while len(renewals) < 2:
        assert time.monotonic() < deadline, f"the lease was not renewed: {renewals}"
        leases = cluster.get("leases", "-n", "kube-node-lease")["items"]
        renewals |= {lease["spec"]["renewTime"] for lease in leases if lease["metadata"]["name"] == "kwok-0"}
        time.sleep(1)


def test_a_killed_daemon_comes_back_and_is_counted(cluster: RunningBox) -> None:
    before = cluster.box.status().daemons["kube-scheduler"].deaths
    cluster.box.kill("kube-scheduler")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        scheduler = cluster.box.status().daemons["kube-scheduler"]
        if scheduler.ready and scheduler.deaths == before + 1:
            return
        time.sleep(0.1)
    pytest.fail(f"kube-scheduler did not come back: {scheduler}")
