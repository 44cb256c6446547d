"""The extender and a stock kube-scheduler as processes, with the chart's own configuration, certificates, rights and policies.

Rendered by helm, so that what is tested is what is installed: only addresses and paths are replaced.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from mica_api import names
from mica_box.kwok import TAINT, add_kwok_nodes
from mica_box.testing import RunningBox

REPOSITORY = Path(__file__).parents[3]
NAMESPACE = "mica-it-extender"
KINDS = {
    "ServiceAccount",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "DeviceClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
WEBHOOKS = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
KEPT = {"CustomResourceDefinition"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(check: Callable[[], Any], *, within: float = 20.0, what: str = "") -> Any:
    """The first truthy result of ``check``; fails after ``within`` seconds with its last one."""
    deadline = time.monotonic() + within
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what or check} not within {within} s; last: {result!r}"
        time.sleep(0.05)


@dataclass
class Process:
    """A child with its log."""

    name: str
    words: list[str]
    env: Mapping[str, str]
    log: Path
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(self.words, env=dict(self.env), stdout=log, stderr=subprocess.STDOUT)

    def stop(self, *, kill: bool = False) -> float:
        """Seconds until it was gone."""
        assert self.child is not None
        started = time.monotonic()
        self.child.kill() if kill else self.child.terminate()
        self.child.wait(20)
        return time.monotonic() - started

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Installation:
    """Extender, kube-scheduler and everything of the chart that they need, against the API server of a box."""

    def __init__(self, cluster: RunningBox, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.admin_port, self.scheduler_port, self.webhook_port = free_port(), free_port(), free_port()
        self.rendered = self._render()
        self._install()
        self.kubeconfig = self._kubeconfig()
        self.extender = self._extender()
        self.scheduler = self._scheduler()

    def start(self) -> None:
        self.extender.start()
        self.wait_ready()
        self.cluster.apply(*self._webhooks())
        self.scheduler.start()
        eventually(self._leading, within=30, what="kube-scheduler holds the Lease")
        eventually(lambda: "decisions begin" in self.extender.text(), within=60, what="the extender has taken over")

    def wait_ready(self) -> None:
        eventually(lambda: self.admin("/readyz", ok=True), within=60, what=f"extender ready\n{self.extender.text()[-3000:]}")

    def stop(self) -> None:
        for process in (self.scheduler, self.extender):
            if process.alive:
                process.stop()
        doomed = [o for o in (*self._objects(), *self._webhooks()) if o["kind"] not in KEPT]
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": doomed})
        self.cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=body)
        self.cluster.kubectl("delete", "--wait=false", "--ignore-not-found", "namespace", NAMESPACE)

    def admin(self, path: str, *, ok: bool = False) -> Any:
        """Body of the admin port; with ``ok`` only whether it answers 200."""
        words = ["curl", "-s", "-m", "20", "-w", "\n%{http_code}", f"http://127.0.0.1:{self.admin_port}{path}"]
        body, _, code = subprocess.run(words, capture_output=True, text=True, check=False).stdout.rpartition("\n")
        return code == "200" if ok else body

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def _render(self) -> list[dict[str, Any]]:
        helm = str(self.cluster.box.binary("helm"))
        words = [helm, "template", "mica", str(REPOSITORY / "charts/mica"), "-n", NAMESPACE, "--set", "scheduler.image=unused"]
        text = subprocess.run(words, capture_output=True, text=True, check=True, env=self.cluster.environment).stdout
        return [document for document in yaml.safe_load_all(text) if document]

    def _objects(self) -> list[dict[str, Any]]:
        return [o for o in self.rendered if o["kind"] in KINDS]

    def _install(self) -> None:
        crds = [o for o in self._objects() if o["kind"] == "CustomResourceDefinition"]
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *crds)
        self.cluster.kubectl(
            "wait", "--for=condition=Established", "--timeout=20s", *(f"crd/{o['metadata']['name']}" for o in crds)
        )
        self.cluster.apply(*(o for o in self._objects() if o["kind"] not in KEPT))

    def _kubeconfig(self) -> Path:
        """Configuration with the rights of the chart's service account and no others."""
        token = self.cluster.kubectl("create", "token", "mica-extender", "-n", NAMESPACE).strip()
        config = yaml.safe_load(Path(self.cluster.kubeconfig).read_text())
        config["users"] = [{"name": "extender", "user": {"token": token}}]
        for context in config["contexts"]:
            context["context"]["user"] = "extender"
        return self.file("kubeconfig", yaml.safe_dump(config))

    def _secret(self, name: str) -> Path:
        secret = next(o for o in self.rendered if o["kind"] == "Secret" and o["metadata"]["name"] == name)
        for key, value in secret["data"].items():
            self.file(f"{name}/{key}", base64.b64decode(value))
        return self.folder / name

    def _webhook_tls(self) -> Path:
        authority = trustme.CA()
        issued = authority.issue_cert(self.cluster.host_ip)
        self.file("webhook-tls/tls.crt", b"".join(part.bytes() for part in issued.cert_chain_pems))
        self.file("webhook-tls/tls.key", issued.private_key_pem.bytes())
        self.file("webhook-tls/ca.crt", authority.cert_pem.bytes())
        return self.folder / "webhook-tls"

    def _webhooks(self) -> list[dict[str, Any]]:
        bundle = base64.b64encode((self.folder / "webhook-tls/ca.crt").read_bytes()).decode()
        found = [json.loads(json.dumps(o)) for o in self.rendered if o["kind"] in WEBHOOKS]
        for webhook in (w for o in found for w in o["webhooks"]):
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://{self.cluster.host_ip}:{self.webhook_port}{path}", "caBundle": bundle}
        return found

    def _extender(self) -> Process:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
        env = {
            **clean,
            "MICA_KUBECONFIG": str(self.kubeconfig),
            "MICA_POD_NAME": socket.gethostname(),
            "MICA_NAMESPACE": NAMESPACE,
            "MICA_SCHEDULER_TLS_DIR": str(self._secret("mica-scheduler-tls")),
            "MICA_WEBHOOK_TLS_DIR": str(self._webhook_tls()),
            "MICA_SCHEDULER_PORT": str(self.scheduler_port),
            "MICA_WEBHOOK_PORT": str(self.webhook_port),
            "MICA_ADMIN_PORT": str(self.admin_port),
        }
        return Process("extender", [sys.executable, "-m", "mica_extender"], env, self.folder / "extender.log")

    def _scheduler(self) -> Process:
        """The chart's configuration; only addresses and paths differ."""
        chart = next(o for o in self.rendered if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "mica-scheduler")
        config = yaml.safe_load(chart["data"]["config.yaml"])
        config["clientConnection"]["kubeconfig"] = str(self.kubeconfig)
        client = self._secret("mica-scheduler-client-tls")
        [extender] = config["extenders"]
        extender["urlPrefix"] = f"https://127.0.0.1:{self.scheduler_port}"
        files = {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key"}
        extender["tlsConfig"] |= {key: str(client / file) for key, file in files.items()}
        path = self.file("scheduler.yaml", yaml.safe_dump(config))
        binary = str(self.cluster.box.binary("kube-scheduler"))
        words = [binary, f"--config={path}", f"--secure-port={free_port()}", "-v=2", f"--cert-dir={self.folder}"]
        words += [f"--{what}-kubeconfig={self.kubeconfig}" for what in ("authentication", "authorization")]
        return Process("kube-scheduler", words, self.cluster.environment, self.folder / "scheduler.log")

    def _leading(self) -> bool:
        lease = self.cluster.kubectl(
            "get", "lease", names.SCHEDULER_NAME, "-n", NAMESPACE, "--ignore-not-found", "-o", "jsonpath={.spec.holderIdentity}"
        )
        assert self.scheduler.alive, self.scheduler.text()[-3000:]
        return lease.startswith(socket.gethostname())


@pytest.fixture(scope="session")
def mica(cluster: RunningBox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running installation with three fake nodes of two 80 GiB cards each."""
    installation = Installation(cluster, tmp_path_factory.mktemp("mica"))
    try:
        add_kwok_nodes(cluster.box, 3, gpus=2)
        installation.start()
        yield installation
    finally:
        installation.stop()


class Pods:
    """Pods of one test, in its own namespace."""

    def __init__(self, cluster: RunningBox, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def body(
        self, name: str, limits: Mapping[str, Any], *, annotations: Mapping[str, str] | None = None, **spec: Any
    ) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": dict(annotations or {})},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"key": TAINT["key"], "operator": "Exists"}],
                "containers": [{"name": "main", "image": "unused", "resources": {"limits": dict(limits)}}],
                **spec,
            },
        }

    def create(self, *bodies: dict[str, Any]) -> str:
        """What kubectl says. Raises BoxError with the API server's words."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
        return self.cluster.kubectl("create", "-f", "-", stdin=text)

    def get(self, name: str) -> dict[str, Any]:
        return self.cluster.get("pod", name, "-n", self.namespace)

    def delete(self, name: str) -> None:
        self.cluster.kubectl("delete", "pod", name, "-n", self.namespace, "--grace-period=0", "--force", "--wait=true")

    @contextmanager
    def history(self) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """While it runs, every version of every pod of the namespace that the API server shows; ask for those seen so far."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?watch=1"
        words = [str(self.cluster.box.binary("kubectl")), "get", "--raw", path]
        with tempfile.TemporaryFile("w+b") as log:
            watch = subprocess.Popen(words, env=self.cluster.environment, stdout=log)

            def seen() -> list[dict[str, Any]]:
                lines = os.pread(log.fileno(), 2**24, 0).split(b"\n")[:-1]
                return [json.loads(line)["object"] for line in lines]

            try:
                yield seen
            finally:
                watch.kill()
                watch.wait()

    def bound(self, name: str, *, within: float = 20.0) -> dict[str, Any]:
        """The pod once it has a node."""

        def look() -> dict[str, Any] | None:
            pod = self.get(name)
            return pod if pod["spec"].get("nodeName") else None

        found: dict[str, Any] = eventually(look, within=within, what=f"pod {name} bound")
        return found

    def pending_because(self, name: str, words: str) -> str:
        """The message of PodScheduled once it contains the words."""

        def look() -> str:
            conditions = self.get(name).get("status", {}).get("conditions", [])
            message = next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")
            return message if words in message else ""

        found: str = eventually(look, within=20, what=f"pod {name} pending because {words}")
        return found

    def shares(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        """The decision for the first container."""
        value = json.loads(pod["metadata"]["annotations"][names.allocation_annotation(0)])
        assert value["uid"] == pod["metadata"]["uid"]
        assert value["node"] == pod["spec"]["nodeName"]
        gpus: list[dict[str, Any]] = value["gpus"]
        return gpus


@pytest.fixture
def pods(mica: Installation) -> Iterator[Pods]:
    """Pods in a fresh namespace; gone afterwards."""
    namespace = f"it-{uuid.uuid4().hex[:8]}"
    mica.cluster.kubectl("create", "namespace", namespace)
    try:
        yield Pods(mica.cluster, namespace)
    finally:
        mica.cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force", "--wait=true")
        mica.cluster.kubectl("delete", "namespace", namespace, "--wait=false")
