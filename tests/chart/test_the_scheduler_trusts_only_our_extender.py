from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import NameOID

from mica_api import names
from mica_api.dialects import match_expression

Body = dict[str, Any]
Find = Callable[[str, str], Body]


def _configuration(find: Find) -> Body:
    parsed: Body = yaml.safe_load(find("ConfigMap", "mica-scheduler")["data"]["config.yaml"])
    return parsed


def _certificate(find: Find, secret: str, key: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(find("Secret", secret)["data"][key]))


def test_the_extender_is_called_over_verified_tls_and_never_skipped(find: Find) -> None:
    (extender,) = _configuration(find)["extenders"]
    assert extender["urlPrefix"] == "https://127.0.0.1:9443"
    assert extender["enableHTTPS"] is True
    assert extender["ignorable"] is False
    assert extender["nodeCacheCapable"] is True
    assert extender["tlsConfig"].keys() == {"caFile", "certFile", "keyFile"}


def test_kube_scheduler_still_counts_our_resources(find: Find) -> None:
    (extender,) = _configuration(find)["extenders"]
    expected = [{"name": name, "ignoredByScheduler": False} for name in names.RESOURCES]
    assert extender["managedResources"] == expected


def test_scores_that_would_pull_against_ours_are_off(find: Find) -> None:
    (profile,) = _configuration(find)["profiles"]
    assert profile["schedulerName"] == names.SCHEDULER_NAME
    disabled = {p["name"] for p in profile["plugins"]["score"]["disabled"]}
    assert disabled == {"NodeResourcesFit", "NodeResourcesBalancedAllocation", "PodTopologySpread"}


def test_the_share_of_nodes_that_is_looked_at_is_configurable(find: Find) -> None:
    assert _configuration(find)["percentageOfNodesToScore"] == 10


def test_kube_scheduler_uses_the_memory_that_it_may(find: Find) -> None:
    containers = find("Deployment", "mica-scheduler")["spec"]["template"]["spec"]["containers"]
    [scheduler] = [container for container in containers if container["name"] == "kube-scheduler"]
    limit = {"resourceFieldRef": {"containerName": "kube-scheduler", "resource": "limits.memory"}}
    assert scheduler["env"] == [{"name": "GOGC", "value": "400"}, {"name": "GOMEMLIMIT", "valueFrom": limit}]
    assert "memory" in scheduler["resources"]["limits"]


def test_a_killed_leader_is_replaced_within_seconds(find: Find) -> None:
    election = _configuration(find)["leaderElection"]
    seconds = {key: int(election[key].rstrip("s")) for key in ("leaseDuration", "renewDeadline", "retryPeriod")}
    assert seconds["leaseDuration"] <= 10
    assert seconds["leaseDuration"] > seconds["renewDeadline"] > seconds["retryPeriod"] * 1.2
    assert (election["resourceName"], election["resourceNamespace"]) == (names.SCHEDULER_NAME, "mica-system")


def test_handshakes_with_the_extender_are_cheap(find: Find) -> None:
    for secret in ("mica-scheduler-tls", "mica-scheduler-client-tls"):
        for file in ("ca.crt", "tls.crt"):
            assert isinstance(_certificate(find, secret, file).public_key(), EllipticCurvePublicKey)


def test_server_and_client_certificates_are_of_one_authority(find: Find) -> None:
    authority = _certificate(find, "mica-scheduler-tls", "ca.crt")
    assert authority == _certificate(find, "mica-scheduler-client-tls", "ca.crt")
    server = _certificate(find, "mica-scheduler-tls", "tls.crt")
    client = _certificate(find, "mica-scheduler-client-tls", "tls.crt")
    server.verify_directly_issued_by(authority)
    client.verify_directly_issued_by(authority)
    alternatives = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in alternatives.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "mica-scheduler"


def test_the_webhooks_have_an_authority_of_their_own(find: Find) -> None:
    authority = _certificate(find, "mica-webhook-tls", "ca.crt")
    assert authority != _certificate(find, "mica-scheduler-tls", "ca.crt")
    for kind in ("Mutating", "Validating"):
        (webhook,) = find(f"{kind}WebhookConfiguration", "mica")["webhooks"]
        assert webhook["clientConfig"]["caBundle"] == find("Secret", "mica-webhook-tls")["data"]["ca.crt"]


def test_webhooks_fail_closed_and_only_for_pods_that_ask(find: Find) -> None:
    for kind in ("Mutating", "Validating"):
        (webhook,) = find(f"{kind}WebhookConfiguration", "mica")["webhooks"]
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["timeoutSeconds"] == 3
        (condition,) = webhook["matchConditions"]
        assert condition["expression"] == match_expression()
        (selector,) = webhook["namespaceSelector"]["matchExpressions"]
        assert (selector["operator"], selector["values"]) == ("NotIn", ["kube-system", "mica-system"])


def test_certificates_restart_the_pod_when_they_change(find: Find) -> None:
    annotations = find("Deployment", "mica-scheduler")["spec"]["template"]["metadata"]["annotations"]
    assert annotations.keys() == {"checksum/tls", "checksum/config"}
