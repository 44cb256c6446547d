"""The cluster that throughput is measured on, as Kubernetes bodies: nodes, pods that run on them, pods that wait. Pure.

Shapes repeat in a fixed order, so that every scheduler under test gets the same pods in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mica_api import names
from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_api.request import ContainerRequest, PodRequest, encode_request
from mica_box.simulated import SimulatedGPU, advertised, cards, vgpu_node

NAMESPACE: Final = "bench"
LABEL: Final = "bench"
SHARD: Final = "shard"
SHARDS: Final = 8
BURST_NODE: Final = "burst"
BURST_PODS: Final = 40
_BURST_TAINT: Final = {"key": "bench", "value": "burst", "effect": "NoSchedule"}
_MAX_SLICES: Final = 10
_GIB: Final = 1024
_GPUS: Final = 8


@dataclass(frozen=True, slots=True)
class Slice:
    """What the one container of a pod asks for: distinct GPUs, and percent and GiB of each."""

    number: int
    cores: int
    gib: int

    @property
    def limits(self) -> dict[str, str]:
        """Resource limits as a user writes them."""
        values = {names.RESOURCE_NUMBER: self.number, names.RESOURCE_CORES: self.cores, names.RESOURCE_MEMORY: self.gib}
        return {name: str(value) for name, value in values.items()}


RUNNING: Final = (Slice(1, 50, 40), Slice(1, 100, 80), Slice(1, 25, 16), Slice(1, 75, 60), Slice(1, 50, 30))
"""Shapes of running pods; each stands alone on a card of its node, so that the other cards are free."""

WAITING: Final = (
    Slice(1, 20, 16),
    Slice(1, 50, 40),
    Slice(1, 10, 8),
    Slice(2, 50, 40),
    Slice(1, 100, 80),
    Slice(1, 30, 24),
    Slice(1, 25, 10),
    Slice(1, 40, 60),
)
"""Shapes of waiting pods, one after another; on average 0.5 GPUs each."""

IN_BURST: Final = Slice(1, 20, 16)
"""Forty of them fill the eight cards of one node exactly."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of the cluster and of one run."""

    nodes: int = 1000
    running: int = 5000
    waiting: int = 3000


def node_name(index: int) -> str:
    """Name of a node."""
    return f"node-{index:05d}"


def node(name: str, *, burst: bool = False) -> dict[str, Any]:
    """A Ready node with eight 80 GiB cards, as its kubelet and its agent would have registered it."""
    gpus = _gpus(name)
    capacity = {"cpu": "128", "memory": "1Ti", "pods": "250", **advertised(gpus, max_slices=_MAX_SLICES)}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**labels, LABEL: BURST_NODE} if burst else labels},
        "spec": {"taints": [_BURST_TAINT]} if burst else {},
        "status": {"capacity": capacity, "allocatable": capacity, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def without_start_taint(*, burst: bool = False) -> dict[str, Any]:
    """Merge patch that takes away the taint that admission puts on every new node until a controller has seen it Ready."""
    return {"spec": {"taints": [_BURST_TAINT] if burst else None}}


def inventory(name: str) -> dict[str, Any]:
    """The VGPUNode of a node."""
    return vgpu_node(name, _gpus(name), pool=names.DEFAULT_POOL, max_slices=_MAX_SLICES)


def pool() -> dict[str, Any]:
    """The default pool, as the operator makes it where there is none."""
    return {"apiVersion": names.API_VERSION, "kind": "VGPUPool", "metadata": {"name": names.DEFAULT_POOL}, "spec": {}}


def running(scale: Scale) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Pods that run already, each with its Binding (the pod's uid is still missing in it: see ``bind``)."""
    for index in range(scale.running):
        on_node, row = index % scale.nodes, index // scale.nodes
        asked = RUNNING[row % len(RUNNING)]
        name = f"running-{index:05d}"
        request = PodRequest((ContainerRequest("main", asked.number, asked.cores, asked.gib * _GIB),))
        body = pod(name, asked, kind="running", shard=index % SHARDS)
        body["metadata"]["labels"][names.LABEL_SLICE] = names.LABEL_SLICE_VALUE
        body["metadata"]["annotations"] = {names.ANNOTATION_REQUEST: encode_request(request)}
        body["spec"]["schedulerName"] = names.SCHEDULER_NAME
        yield body, {"name": name, "node": node_name(on_node), "card": row % _GPUS, "asked": asked}


def bind(told: dict[str, Any], uid: str) -> dict[str, Any]:
    """The Binding of a running pod with the decision in it, as the extender writes it."""
    on_node: str = told["node"]
    asked: Slice = told["asked"]
    share = GPUShare(_gpus(on_node)[told["card"]].uuid, asked.gib * _GIB, asked.cores)
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {
            "name": told["name"],
            "namespace": NAMESPACE,
            "uid": uid,
            "annotations": encode_pod_allocation(pod_uid=uid, node=on_node, shares=((share,),)),
        },
        "target": {"apiVersion": "v1", "kind": "Node", "name": on_node},
    }


def waiting(scale: Scale) -> Iterator[dict[str, Any]]:
    """Pods as users write them: limits, and nothing of any scheduler."""
    for index in range(scale.waiting):
        yield pod(f"waiting-{index:05d}", WAITING[index % len(WAITING)], kind="waiting", shard=index % SHARDS)


def warm_up() -> dict[str, Any]:
    """One pod more, to see that the scheduler schedules."""
    return pod("warm-up", WAITING[0], kind="warm-up", shard=0)


def burst() -> Iterator[dict[str, Any]]:
    """Forty pods that only the burst node may run, and that fill it exactly."""
    for index in range(BURST_PODS):
        yield burst_pod(f"burst-{index:02d}")


def burst_pod(name: str) -> dict[str, Any]:
    """A pod for the burst node, a fifth of a card."""
    body = pod(name, IN_BURST, kind="burst", shard=0)
    body["spec"] |= {"nodeSelector": {LABEL: BURST_NODE}, "tolerations": [_BURST_TAINT]}
    return body


def pod(name: str, asked: Slice, *, kind: str, shard: int) -> dict[str, Any]:
    """A pod of one container, with a little CPU and memory, as inference pods have."""
    resources = {"limits": asked.limits, "requests": {"cpu": "1", "memory": "2Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: kind, SHARD: str(shard)}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "example.test/engine:1", "resources": resources}],
        },
    }


def _gpus(name: str) -> list[SimulatedGPU]:
    return cards(name, _GPUS)
