"""The shipped CRDs and admission policies on the real API server."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mica_box.errors import BoxError
from mica_box.testing import RunningBox
from mica_generate.files import CHART, REPOSITORY

Body = dict[str, Any]
Refused = Callable[..., str]
NAMESPACE = "mica-system"
_POLICY_KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


@pytest.fixture(scope="session")
def crds(cluster: RunningBox) -> RunningBox:
    """The API server with our kinds."""
    for path in sorted((REPOSITORY / "crds").glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return cluster


@pytest.fixture(scope="module")
def policies(crds: RunningBox) -> Iterator[RunningBox]:
    """Our admission policies are in force for the length of a module: other suites of this session may do without."""
    manifest = _rendered_policies(crds)
    crds.apply(*manifest)
    try:
        _wait_until_in_force(crds)
        yield crds
    finally:
        crds.kubectl(
            "delete", "validatingadmissionpolicies,validatingadmissionpolicybindings", "-l", "app.kubernetes.io/part-of=mica"
        )


def _rendered_policies(cluster: RunningBox) -> list[Body]:
    helm: Path = cluster.box.binary("helm")
    command = [str(helm), "template", "mica", CHART, "--namespace", NAMESPACE, "--set", "scheduler.image=x"]
    command += ["--set", "admission.excludedNamespaces={kube-public}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [body for body in yaml.safe_load_all(done.stdout) if body and body["kind"] in _POLICY_KINDS]


def _wait_until_in_force(cluster: RunningBox) -> None:
    """Denials start some hundred milliseconds after the policies are stored; each one is asked until it denies."""
    probes: list[Body] = [
        pod("probe", annotations={"alloc.mica.dev/c0": "x"}),
        pod("probe", labels={"mica.dev/slice": "true"}),
        vgpu_node("probe", simulated=False),
    ]
    deadline = time.monotonic() + 20
    for body in probes:
        while not _denied(cluster, body):
            assert time.monotonic() < deadline, f"no policy denies {body}"
            time.sleep(0.2)


def _denied(cluster: RunningBox, body: Body) -> bool:
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))
    except BoxError:
        return True
    return False


def pod(name: str, *, namespace: str = "default", **metadata: Any) -> Body:
    """A pod that runs nothing and asks for nothing."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"containers": [{"name": "main", "image": "localhost/none:1"}]},
    }


def slice_pod(name: str, *, namespace: str = "default") -> Body:
    """A pod as the webhook leaves it."""
    body = pod(
        name,
        namespace=namespace,
        labels={"mica.dev/slice": "true"},
        annotations={"mica.dev/request": '{"v":1,"containers":[]}'},
    )
    body["spec"]["schedulerName"] = "mica-scheduler"
    body["spec"]["containers"][0]["resources"] = {"limits": {"mica.dev/vgpu-number": "1"}}
    return body


def vgpu_node(name: str, *, simulated: bool) -> Body:
    """A VGPUNode with one card."""
    gpu = {"uuid": f"GPU-{name}", "index": 0, "model": "m", "memoryMiB": 1024}
    spec = {"pool": "default", "maxSlicesPerGPU": 10, "driver": {"version": "1", "simulated": simulated}, "gpus": [gpu]}
    return {"apiVersion": "mica.dev/v1alpha1", "kind": "VGPUNode", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def unique() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def refused() -> Refused:
    """The API server's words for refusing a body; fails when it does not."""

    def ask(cluster: RunningBox, body: Body, *flags: str, verb: str = "create") -> str:
        with pytest.raises(BoxError) as refusal:
            cluster.kubectl(verb, "-f", "-", *flags, stdin=yaml.safe_dump(body))
        return str(refusal.value)

    return ask


@pytest.fixture(scope="session")
def bodies() -> dict[str, Callable[..., Body]]:
    return {"pod": pod, "slice_pod": slice_pod, "vgpu_node": vgpu_node}
