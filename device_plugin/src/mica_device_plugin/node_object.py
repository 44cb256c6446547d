"""Our VGPUNode as it should be: inventory, slices held, refusals and conditions. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from mica_api import names
from mica_api.models.common import WantedCondition
from mica_api.models.vgpu_node import (
    GPU,
    DriverInfo,
    GPULink,
    HeldCompute,
    HeldGPU,
    HeldSlice,
    NodeCPU,
    NodeSummary,
    Refusal,
    VGPUNodeSpec,
    VGPUNodeStatus,
)
from mica_api.request import MAX_CORES, MIB_PER_GIB
from mica_api.sharing import CardCapacity, Sharing
from mica_device_plugin.cordon import KEYS
from mica_device_plugin.values import GPUDevice, Inventory, Pin, PoolChoice, RefusalRecord

_UUID_LIMIT: Final = 80
_MAP_LISTS: Final[Mapping[str, tuple[str, ...]]] = {
    "slices": ("podUID", "container"),
    "refusals": ("podUID", "container"),
    "conditions": ("type",),
}


@dataclass(frozen=True, slots=True)
class Situation:
    """What the object is made from. An empty ``driver_problem`` means that the driver answers; ``cordoned`` are UUIDs as people
    wrote them; ``unlimited_names`` are functions of the driver that the limiter lacks."""

    inventory: Inventory
    pool: PoolChoice | None
    pins: tuple[Pin, ...]
    refusals: tuple[RefusalRecord, ...]
    driver_problem: str
    registered: bool
    cordoned: frozenset[str] = frozenset()
    cpu: NodeCPU | None = None
    unlimited_names: tuple[str, ...] = ()


def build_spec(situation: Situation) -> VGPUNodeSpec:
    """Inventory of the node and how it is sliced; without a pool its name is empty and nobody places anything there."""
    inventory, pool = situation.inventory, situation.pool
    sharing = pool.sharing if pool else Sharing(max_slices=1)
    return VGPUNodeSpec(
        pool=pool.name if pool else "",
        max_slices_per_gpu=sharing.max_slices,
        memory_overcommit_percent=sharing.memory_overcommit_percent,
        cores_overcommit_percent=sharing.cores_overcommit_percent,
        driver=DriverInfo(version=inventory.driver_version[:64], simulated=inventory.simulated),
        gpus=[_gpu(gpu, pool, cordoned=gpu.uuid in situation.cordoned) for gpu in inventory.gpus],
    )


def node_body(name: str, *, node_uid: str, spec: VGPUNodeSpec) -> dict[str, Any]:
    """Object to apply: owned by its Node, so that it disappears with it."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid}
    return _object({"name": name, "ownerReferences": [owner]}, name) | {"spec": spec.to_wire()}


def status_body(name: str, status: VGPUNodeStatus) -> dict[str, Any]:
    """Status to apply."""
    return _object({"name": name}, name) | {"status": status.to_wire()}


def build_status(situation: Situation) -> VGPUNodeStatus:
    """Status without conditions, which need the stored times."""
    held = [
        HeldSlice(
            pod_uid=pin.pod_uid,
            namespace=pin.namespace,
            pod=pin.pod,
            container=container.name,
            gpus=[HeldGPU(uuid=s.uuid, memory_mib=s.memory_mib, cores=s.cores) for s in container.shares],
            compute=_compute(pin, situation.pool),
        )
        for pin in sorted(situation.pins, key=lambda p: p.pod_uid)
        for container in pin.containers
        if container.shares
    ]
    refusals = [
        Refusal(pod_uid=r.pod_uid, namespace=r.namespace, pod=r.pod, container=r.container, reason=r.reason, message=r.message)
        for r in sorted(situation.refusals, key=lambda r: (r.pod_uid, r.container))
    ]
    return VGPUNodeStatus(
        cpu=situation.cpu, summary=_summary(situation, held), slices=held or None, refusals=refusals[:256] or None
    )


def conditions(situation: Situation) -> list[WantedCondition]:
    """What is well and what is not, ending with the sum of it all."""
    sick = [gpu.uuid for gpu in situation.inventory.gpus if not gpu.healthy]
    parts = [
        _condition("DriverOK", not situation.driver_problem, "DriverAnswers", "DriverProblem", situation.driver_problem),
        _condition(
            "PoolSelected",
            situation.pool is not None,
            "PoolSelected",
            "NoPool",
            "no VGPUPool selects this node: nothing is advertised; label the node or change a pool's nodeSelector",
        ),
        _condition(
            "Registered",
            situation.registered,
            "Registered",
            "NotRegistered",
            "the kubelet has not taken the device plugin's registration",
        ),
    ]
    failing = [part for part in parts if part.status != "True"]
    strange = _not_on_node(situation)
    cordon = _condition(
        "CordonApplied",
        not strange,
        "AllKnown",
        "UnknownGPU",
        f"the Node's annotations ({', '.join(KEYS)}) name GPUs that are not on this node: {', '.join(strange)}; "
        "write UUIDs as spec.gpus lists them",
    )
    complete = _condition(
        "LimiterComplete",
        not situation.unlimited_names,
        "AllKnown",
        "DriverIsNewer",
        f"the driver has {len(situation.unlimited_names)} functions that the limiter lacks "
        f"({', '.join(situation.unlimited_names[:5])} …): programs that need them do not start in slices; "
        "install a newer Mica, or an older driver",
    )
    healthy = _condition("GPUsHealthy", not sick, "AllHealthy", "GPUUnhealthy", f"unhealthy: {', '.join(sick)}")
    ready = _condition(
        "Ready",
        not failing,
        "Ready",
        failing[0].reason if failing else "",
        "; ".join(part.message for part in failing),
    )
    return [*parts, healthy, cordon, complete, ready]


def comparable(status: VGPUNodeStatus) -> Mapping[str, Any]:
    """Form in which two statuses can be compared whatever the order of their map lists."""
    wire = status.to_wire()
    for field, keys in _MAP_LISTS.items():
        if field in wire:
            wire[field] = sorted(wire[field], key=itemgetter(*keys))
    return wire


def _compute(pin: Pin, pool: PoolChoice | None) -> HeldCompute | None:
    if pool is None:
        return None
    held = pool.compute.resolve(pin.compute)
    return HeldCompute.model_validate(
        {"policy": held.policy.capitalize(), "priority": held.priority.capitalize(), "weight": held.weight}
    )


def _condition(type_: str, holds: bool, good: str, bad: str, message: str) -> WantedCondition:
    if holds:
        return WantedCondition(type=type_, status="True", reason=good)
    return WantedCondition(type=type_, status="False", reason=bad, message=message)


def _object(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"apiVersion": names.API_VERSION, "kind": "VGPUNode", "metadata": dict(metadata) | {"name": name}}


def _not_on_node(situation: Situation) -> list[str]:
    """Cordoned UUIDs that match nothing; before any card was seen nobody can tell."""
    known = {gpu.uuid for gpu in situation.inventory.gpus}
    return sorted(uuid[:_UUID_LIMIT] for uuid in situation.cordoned - known) if known else []


def _gpu(gpu: GPUDevice, pool: PoolChoice | None, *, cordoned: bool) -> GPU:
    return GPU(
        uuid=gpu.uuid,
        index=gpu.index,
        model=gpu.model[:128],
        memory_mib=gpu.memory_mib,
        numa_node=gpu.numa,
        pci_bus_id=gpu.pci,
        health="Healthy" if gpu.healthy else "Unhealthy",
        mode=pool.mode_of(gpu.uuid) if pool else "Shared",
        cordoned=cordoned,
        links=[GPULink(uuid=link.uuid, type=link.type) for link in gpu.links] or None,
    )


def _summary(situation: Situation, held: Iterable[HeldSlice]) -> NodeSummary:
    gpus, pool = situation.inventory.gpus, situation.pool
    shares = [gpu for item in held for gpu in item.gpus]
    capacity = [pool.capacity(gpu) if pool else CardCapacity(0, MAX_CORES, gpu.memory_mib) for gpu in gpus]
    memory, total = sum(s.memory_mib for s in shares), sum(c.memory_mib for c in capacity)
    return NodeSummary(
        gpus=len(gpus),
        exclusive=sum(pool.mode_of(gpu.uuid) == "Exclusive" for gpu in gpus) if pool else 0,
        cordoned=sum(gpu.uuid in situation.cordoned for gpu in gpus),
        model=_models(gpus),
        slices=f"{len(shares)}/{sum(c.slices for c in capacity)}",
        cores=f"{sum(s.cores for s in shares)}/{sum(c.cores for c in capacity)} %",
        memory=f"{_gib(memory)}/{_gib(total)} GiB",
    )


def _models(gpus: Iterable[GPUDevice]) -> str:
    counts = Counter(gpu.model for gpu in gpus)
    if len(counts) <= 1:
        return next(iter(counts), "")
    return ", ".join(f"{count}x {model}" for model, count in sorted(counts.items()))


def _gib(mib: int) -> str:
    return f"{mib / MIB_PER_GIB:.1f}".removesuffix(".0")
