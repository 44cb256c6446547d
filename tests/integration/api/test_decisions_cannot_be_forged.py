"""The deny matrix of the admission policies, asked of the real API server by the identities that matter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from mica_box.errors import BoxError
from mica_box.testing import RunningBox

Body = dict[str, Any]
Make = dict[str, Callable[..., Body]]
Refused = Callable[..., str]
EXTENDER = "system:serviceaccount:mica-system:mica-extender"
AGENT = "system:serviceaccount:mica-system:mica-node-agent"
ADMIN = ("--as-group=system:masters",)
DECISION = {"alloc.mica.dev/c0": "x"}


def _as(user: str) -> tuple[str, ...]:
    """RBAC is not what is tested here: every identity may do everything."""
    return (f"--as={user}", *ADMIN)


def _patch(pod: str, *flags: str, **metadata: Any) -> tuple[str, ...]:
    return ("patch", "pod", pod, "--type=merge", "-p", json.dumps({"metadata": metadata}), *flags)


def _binding(pod: str, **annotations: str) -> Body:
    meta = {"name": pod, "namespace": "default", "annotations": annotations}
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": meta,
        "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"},
    }


def _bind(cluster: RunningBox, body: Body, *flags: str, legacy: bool = False) -> None:
    folder = "bindings" if legacy else f"pods/{body['metadata']['name']}/binding"
    cluster.kubectl("create", "--raw", f"/api/v1/namespaces/default/{folder}", "-f", "-", *flags, stdin=json.dumps(body))


@pytest.fixture
def admitted(policies: RunningBox, bodies: Make, unique: str) -> Iterator[str]:
    """A pod on a slice, not bound yet."""
    policies.apply(bodies["slice_pod"](unique))
    yield unique
    policies.kubectl("delete", "pod", unique, "--force", "--grace-period=0", "--ignore-not-found")


def test_a_pod_as_admitted_passes(admitted: str, policies: RunningBox) -> None:
    assert policies.get("pod", admitted)["spec"]["schedulerName"] == "mica-scheduler"


def test_other_pods_are_not_looked_at(policies: RunningBox, bodies: Make, unique: str) -> None:
    body = bodies["pod"](unique, annotations={"own/note": "1"})
    body["spec"] |= {"nodeName": "anywhere", "hostPID": True}
    body["spec"]["containers"][0]["env"] = [{"name": "LD_PRELOAD", "value": "x"}]
    body["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    policies.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


@pytest.mark.parametrize("user", ["someone", EXTENDER])
def test_nobody_creates_a_pod_with_a_decision(
    policies: RunningBox, bodies: Make, refused: Refused, unique: str, user: str
) -> None:
    words = refused(policies, bodies["pod"](unique, annotations=DECISION), "--dry-run=server", *_as(user))
    assert "decisions of Mica's scheduler" in words


@pytest.mark.parametrize("user", ["someone", EXTENDER, "system:node:nowhere"])
@pytest.mark.parametrize("subresource", ["", "--subresource=status"])
def test_nobody_adds_a_decision_to_a_pod(policies: RunningBox, admitted: str, user: str, subresource: str) -> None:
    flags = [flag for flag in (*_as(user), subresource) if flag]
    with pytest.raises(BoxError, match="decisions of Mica's scheduler"):
        policies.kubectl(*_patch(admitted, *flags, annotations=DECISION))


def test_a_decision_that_was_bound_cannot_be_changed_or_removed(policies: RunningBox, admitted: str) -> None:
    _bind(policies, _binding(admitted, **DECISION), *_as(EXTENDER))
    stored = policies.get("pod", admitted)
    assert stored["spec"]["nodeName"] == "nowhere"
    assert stored["metadata"]["annotations"]["alloc.mica.dev/c0"] == "x"
    for value, words in (("y", "cannot be written or changed"), (None, "cannot be removed")):
        with pytest.raises(BoxError, match=words):
            policies.kubectl(*_patch(admitted, annotations={"alloc.mica.dev/c0": value}))
    policies.kubectl(*_patch(admitted, annotations={"own/note": "1"}))


@pytest.mark.parametrize("key", ["alloc.mica.dev/c0", "alloc.mica.dev/other", "mica.dev/request"])
@pytest.mark.parametrize("legacy", [False, True])
def test_only_the_extender_binds_with_a_decision(policies: RunningBox, admitted: str, key: str, legacy: bool) -> None:
    with pytest.raises(BoxError, match="only Mica's scheduler may put"):
        _bind(policies, _binding(admitted, **{key: "x"}), *_as("system:kube-scheduler"), legacy=legacy)


def test_the_legacy_resource_is_closed_even_for_the_extender(policies: RunningBox, admitted: str) -> None:
    with pytest.raises(BoxError, match="only Mica's scheduler may put"):
        _bind(policies, _binding(admitted, **DECISION), *_as(EXTENDER), legacy=True)


def test_bindings_without_decisions_are_free(policies: RunningBox, admitted: str) -> None:
    _bind(policies, _binding(admitted, note="1"), *_as("system:kube-scheduler"))
    assert policies.get("pod", admitted)["spec"]["nodeName"] == "nowhere"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"annotations": {"mica.dev/request": "{}"}}, "cannot change after the pod is created"),
        ({"annotations": {"mica.dev/request": None}}, "cannot change after the pod is created"),
        ({"annotations": {"mica.dev/original-resources": "x"}}, "cannot change after the pod is created"),
        ({"labels": {"mica.dev/slice": "false"}}, "label mica.dev/slice cannot change"),
        ({"labels": {"mica.dev/slice": None}}, "label mica.dev/slice cannot change"),
    ],
)
def test_what_admission_wrote_stays(policies: RunningBox, admitted: str, metadata: Body, words: str) -> None:
    with pytest.raises(BoxError, match=words):
        policies.kubectl(*_patch(admitted, **metadata))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("policy", "elastic", "must be strict or conserving"),
        ("priority", "1", "must be low, normal or high"),
        ("weight", "0", "must be a whole number from 1 to 10000"),
        ("weight", "10001", "must be a whole number from 1 to 10000"),
    ],
)
@pytest.mark.parametrize("subresource", [(), ("--subresource=status",)], ids=["pod", "status"])
def test_a_choice_of_compute_is_changed_to_what_means_something(
    policies: RunningBox, admitted: str, key: str, value: str, words: str, subresource: tuple[str, ...]
) -> None:
    with pytest.raises(BoxError, match=words):
        policies.kubectl(*_patch(admitted, *_as("someone"), *subresource, annotations={f"mica.dev/compute-{key}": value}))
    policies.kubectl(*_patch(admitted, *subresource, annotations={"mica.dev/compute-weight": "10000", "own/note": "1"}))


def test_a_thousand_annotations_are_enough(policies: RunningBox, bodies: Make, refused: Refused, unique: str) -> None:
    many = {f"a/{i}": "" for i in range(1001)}
    assert "at most 1000 annotations" in refused(policies, bodies["pod"](unique, annotations=many), "--dry-run=server")


def _change(**spec: Any) -> Callable[[Body], None]:
    return lambda body: body["spec"].update(spec)


def _container(**fields: Any) -> Callable[[Body], None]:
    return lambda body: body["spec"]["containers"][0].update(fields)


def _host_path(path: str) -> Callable[[Body], None]:
    return _change(volumes=[{"name": "v", "hostPath": {"path": path}}])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body["metadata"].pop("annotations"), "not admitted by Mica's webhook"),
        (lambda body: body["metadata"].pop("labels"), "not admitted by Mica's webhook"),
        (_change(schedulerName="default-scheduler"), "not admitted by Mica's webhook"),
        (_change(nodeName="n1"), "remove spec.nodeName and use a nodeSelector"),
        (_change(hostPID=True), "cannot use hostPID or privileged"),
        (_container(securityContext={"privileged": True}), "cannot use hostPID or privileged"),
        *[
            (_container(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE", name]}}), "cannot add the capabilities")
            for name in ("SYS_ADMIN", "SYS_PTRACE", "ALL", "sys_admin", "CAP_SYS_PTRACE")
        ],
        (_container(env=[{"name": "LD_PRELOAD", "value": "x"}]), "cannot set LD_PRELOAD"),
        (_container(env=[{"name": "GLIBC_TUNABLES", "value": "x"}]), "cannot set LD_PRELOAD"),
        (_container(resources={}), "are set by Mica on pods that ask for slices; remove them"),
        (
            _change(initContainers=[{"name": "i", "image": "x", "resources": {"limits": {"mica.dev/vgpu-number": "1"}}}]),
            "init containers cannot have GPU slices",
        ),
        (_change(initContainers=[{"name": "i", "image": "x", "securityContext": {"privileged": True}}]), "privileged"),
        *[
            (_host_path(path), "cannot mount host paths")
            for path in (
                "/",
                "/var/lib",
                "/var/lib/",
                "/run/mica/slices",
                "/var/run/mica",
                "/var/lib/kubelet/device-plugins/",
                "/run/cdi",
                "/etc",
                "//run/mica",
                "/run/./mica",
                "/var/.",
            )
        ],
    ],
)
def test_a_pod_on_slices_keeps_its_shape(
    policies: RunningBox, bodies: Make, refused: Refused, unique: str, change: Callable[[Body], object], words: str
) -> None:
    body = bodies["slice_pod"](unique)
    change(body)
    assert words in refused(policies, body, "--dry-run=server")


@pytest.mark.parametrize("path", ["/data", "/var/library", "/run/micah", "/dev/shm"])
def test_other_host_paths_are_not_ours_to_refuse(policies: RunningBox, bodies: Make, unique: str, path: str) -> None:
    body = bodies["slice_pod"](unique)
    _host_path(path)(body)
    body["spec"]["containers"][0]["env"] = [{"name": "LD_LIBRARY_PATH", "value": "/x"}]
    policies.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_a_namespace_outside_the_webhook_gets_no_slices(
    policies: RunningBox, bodies: Make, refused: Refused, unique: str, where: str
) -> None:
    body = bodies["pod"](unique, namespace="kube-system")
    body["spec"][where] = [{"name": "x", "image": "x", "resources": {"limits": {"mica.dev/vgpu-cores": "1"}}}]
    body["spec"].setdefault("containers", [])
    if where == "initContainers":
        body["spec"]["containers"] = [{"name": "m", "image": "x"}]
    words = refused(policies, body, "--dry-run=server")
    assert "pods of this namespace cannot have GPU slices" in words


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public"])
def test_a_pod_made_up_to_look_admitted_gets_no_slices_there_either(
    policies: RunningBox, bodies: Make, refused: Refused, unique: str, namespace: str
) -> None:
    words = refused(policies, bodies["slice_pod"](unique, namespace=namespace), "--dry-run=server")
    assert "pods of this namespace cannot have GPU slices" in words


def test_harmless_capabilities_are_not_ours_to_refuse(policies: RunningBox, bodies: Make, unique: str) -> None:
    body = bodies["slice_pod"](unique)
    body["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]}}
    policies.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


@pytest.mark.parametrize(
    "container",
    [
        {"securityContext": {"privileged": True}},
        {"env": [{"name": "LD_PRELOAD", "value": "x"}]},
        {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]},
    ],
)
def test_a_debug_container_does_not_open_the_slice(policies: RunningBox, admitted: str, container: Body) -> None:
    patch = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "x", **container}]}}
    with pytest.raises(BoxError, match="a debug container in a pod on GPU slices"):
        policies.kubectl(
            "patch", "pod", admitted, "--subresource=ephemeralcontainers", "--type=strategic", "-p", json.dumps(patch)
        )


def test_a_plain_debug_container_is_welcome(policies: RunningBox, admitted: str) -> None:
    patch = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "x"}]}}
    policies.kubectl("patch", "pod", admitted, "--subresource=ephemeralcontainers", "--type=strategic", "-p", json.dumps(patch))


@pytest.fixture(scope="module")
def agent_token(policies: RunningBox) -> Iterator[str]:
    """What the kubelet gives to the agent's pod on node own-node: a token that names the node."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mica-system"}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mica-node-agent", "namespace": "mica-system"}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": "mica-node-agent", "namespace": "mica-system"}
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "test-agent-may-do-everything"},
        "roleRef": role,
        "subjects": [subject],
    }
    policies.apply(namespace, account, rights)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": "mica-system"},
        "spec": {"nodeName": "own-node", "serviceAccountName": "mica-node-agent", "containers": [{"name": "a", "image": "x"}]},
    }
    policies.apply(pod)
    flags = ("--bound-object-kind=Pod", "--bound-object-name=agent")
    yield policies.kubectl("-n", "mica-system", "create", "token", "mica-node-agent", *flags).strip()
    policies.kubectl("delete", "clusterrolebinding", "test-agent-may-do-everything")
    policies.kubectl("-n", "mica-system", "delete", "pod", "agent", "--force", "--grace-period=0", "--ignore-not-found")


def _with_token(cluster: RunningBox, token: str) -> tuple[str, ...]:
    """kubectl prefers the kubeconfig's client certificate to a token, so it gets a kubeconfig without one."""
    config = yaml.safe_load(cluster.box.kubeconfig.read_text())
    (entry,) = config["users"]
    entry["user"] = {"token": token}
    path = cluster.box.kubeconfig.with_name("agent.kubeconfig")
    path.write_text(yaml.safe_dump(config))
    return (f"--kubeconfig={path}",)


def test_an_agent_writes_its_own_node_and_no_other(
    policies: RunningBox, bodies: Make, refused: Refused, agent_token: str
) -> None:
    flags = _with_token(policies, agent_token)
    own = bodies["vgpu_node"]("own-node", simulated=False)
    policies.kubectl("apply", "--server-side", "-f", "-", *flags, stdin=yaml.safe_dump(own))
    status = {**own, "status": {"summary": {"gpus": 1}}}
    policies.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", *flags, stdin=yaml.safe_dump(status))
    words = refused(policies, bodies["vgpu_node"]("other-node", simulated=True), "--dry-run=server", *flags)
    assert "may write the VGPUNode of its own node only" in words
    policies.kubectl("delete", "vgpunode", "own-node")


def test_an_agent_whose_token_names_no_node_writes_nothing(policies: RunningBox, bodies: Make, refused: Refused) -> None:
    words = refused(policies, bodies["vgpu_node"]("own-node", simulated=True), "--dry-run=server", *_as(AGENT))
    assert "may write the VGPUNode of its own node only" in words


def test_people_write_simulated_nodes_only(
    policies: RunningBox, bodies: Make, refused: Refused, agent_token: str, unique: str
) -> None:
    policies.apply(bodies["vgpu_node"](unique, simulated=True))
    policies.apply(bodies["vgpu_node"](unique, simulated=True) | {"status": {}})
    assert "others may write simulated ones" in refused(policies, bodies["vgpu_node"](unique, simulated=False), verb="apply")
    assert "others may write simulated ones" in refused(
        policies, bodies["vgpu_node"]("real", simulated=False), "--dry-run=server"
    )
    policies.kubectl("delete", "vgpunode", unique)
    flags = _with_token(policies, agent_token)
    real = bodies["vgpu_node"]("own-node", simulated=False)
    policies.kubectl("apply", "--server-side", "-f", "-", *flags, stdin=yaml.safe_dump(real))
    faked = bodies["vgpu_node"]("own-node", simulated=True)
    assert "others may write simulated ones" in refused(policies, faked, "--server-side", "--force-conflicts", verb="apply")
    policies.kubectl("delete", "vgpunode", "own-node")
