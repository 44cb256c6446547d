"""Whether a decision can be right on this node. Pure: values in, Accept or Refuse out.

Everything here is checked by the node for itself, whoever decided: a stale scheduler, a forged annotation or a race ends in a
refusal with words for the pod's owner. Not a placement engine: it never looks for a better card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mica_api.allocation import ContainerAllocation, GPUShare, InvalidAllocation, decode_pod_allocation, mismatch
from mica_api.compute import NO_CHOICE, ComputeChoice, read_compute
from mica_api.request import MAX_CORES, InvalidRequest, PodRequest, read_request
from mica_api.sharing import CardCapacity
from mica_device_plugin.values import GPUDevice, Pin, PinnedContainer, PodView, PoolChoice


class Reason(StrEnum):
    """Why a container is not let start, as a machine word."""

    NOT_BOUND_HERE = "NotBoundHere"
    NO_DECISION = "NoDecision"
    MALFORMED_DECISION = "MalformedDecision"
    WRONG_NODE = "WrongNode"
    WRONG_POD = "WrongPod"
    INVALID_REQUEST = "InvalidRequest"
    NOT_AS_REQUESTED = "NotAsRequested"
    NO_POOL = "NoPool"
    UNKNOWN_GPU = "UnknownGPU"
    UNHEALTHY_GPU = "UnhealthyGPU"
    COMPUTE_NOT_ALLOWED = "ComputeNotAllowed"
    OUT_OF_MEMORY = "OutOfMemory"
    OUT_OF_CORES = "OutOfCores"
    OUT_OF_SLICES = "OutOfSlices"
    NOT_EXCLUSIVE = "NotExclusive"
    UNKNOWN_CONTAINER = "UnknownContainer"
    INIT_CONTAINER = "InitContainer"
    LIBRARY_MISSING = "LibraryMissing"


@dataclass(frozen=True, slots=True)
class Refuse:
    """The decision cannot be right; ``message`` becomes the container's waiting message."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Accept:
    """The decision can be right; ``containers`` is what to pin, one per app container, with the pod's choice of ``compute``."""

    containers: tuple[PinnedContainer, ...]
    compute: ComputeChoice = NO_CHOICE


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """This node as its agent knows it; ``pool`` is None when none selects the node. Cordons are not among the facts: they keep
    new decisions away from a card, and a decision that was made before is carried out."""

    name: str
    gpus: tuple[GPUDevice, ...]
    pool: PoolChoice | None


def verify(*, pod: PodView, node: NodeFacts, held: Iterable[Pin]) -> Accept | Refuse:
    """Check the whole pod's decision against the node, the request and everything in ``held`` (its own pin excluded by uid)."""
    if pod.node != node.name:
        return Refuse(Reason.NOT_BOUND_HERE, f"the pod is bound to node {pod.node!r}, this is {node.name!r}")
    decided = _decode(pod)
    if isinstance(decided, Refuse):
        return decided
    misplaced = _addressed_to(decided, pod=pod, node=node)
    if misplaced is not None:
        return misplaced
    try:
        request = read_request(pod.containers, pod.annotations)
        compute = read_compute(pod.annotations)
    except InvalidRequest as error:
        return Refuse(Reason.INVALID_REQUEST, str(error))
    shares = [share for allocation in decided for share in allocation.shares]
    refusal = (
        check_gpus(shares, node.gpus)
        or _as_requested(request, decided, node)
        or _fits(shares, pod.uid, node, held)
        or _allowed(compute, node)
    )
    if refusal is not None:
        return refusal
    containers = zip(pod.containers, decided, strict=True)
    return Accept(tuple(PinnedContainer(name, allocation.shares) for (name, _), allocation in containers), compute)


def check_gpus(shares: Iterable[GPUShare], gpus: Iterable[GPUDevice]) -> Refuse | None:
    """Every card must be on this node and healthy; checked on every start, pinned or not."""
    known = {gpu.uuid: gpu for gpu in gpus}
    for share in shares:
        gpu = known.get(share.uuid)
        if gpu is None:
            return Refuse(Reason.UNKNOWN_GPU, f"GPU {share.uuid} is not on this node")
        if not gpu.healthy:
            words = (
                f"GPU {share.uuid} is unhealthy; the container starts when it has recovered, "
                "or delete the pod so that another one is decided anew"
            )
            return Refuse(Reason.UNHEALTHY_GPU, words)
    return None


def _decode(pod: PodView) -> tuple[ContainerAllocation, ...] | Refuse:
    try:
        decided = decode_pod_allocation(pod.annotations, len(pod.containers))
    except InvalidAllocation as error:
        return Refuse(Reason.MALFORMED_DECISION, str(error))
    if decided is None:
        return Refuse(Reason.NO_DECISION, "no GPU was decided for this pod: it was not bound by Mica's scheduler")
    return decided


def _addressed_to(decided: Sequence[ContainerAllocation], *, pod: PodView, node: NodeFacts) -> Refuse | None:
    for allocation in decided:
        if allocation.node != node.name:
            return Refuse(Reason.WRONG_NODE, f"the decision is for node {allocation.node!r}, this is {node.name!r}")
        if allocation.pod_uid != pod.uid:
            return Refuse(Reason.WRONG_POD, f"the decision is for pod uid {allocation.pod_uid!r}, this pod is {pod.uid!r}")
    return None


def _as_requested(request: PodRequest, decided: Sequence[ContainerAllocation], node: NodeFacts) -> Refuse | None:
    memory_of = {gpu.uuid: gpu.memory_mib for gpu in node.gpus}
    for wanted, allocation in zip(request.containers, decided, strict=True):
        difference = mismatch(wanted, allocation.shares, memory_of)
        if difference is not None:
            return Refuse(Reason.NOT_AS_REQUESTED, f"container {wanted.name}: {difference}")
    return None


def _allowed(choice: ComputeChoice, node: NodeFacts) -> Refuse | None:
    excess = node.pool.compute.excess(choice) if node.pool is not None else None
    if node.pool is None or excess is None:
        return None
    words = f"the pod chooses more compute than pool {node.pool.name} of this node allows: {excess}"
    return Refuse(Reason.COMPUTE_NOT_ALLOWED, words)


def _fits(shares: Sequence[GPUShare], pod_uid: str, node: NodeFacts, held: Iterable[Pin]) -> Refuse | None:
    if node.pool is None:
        return Refuse(Reason.NO_POOL, "no VGPUPool selects this node")
    others: dict[str, list[GPUShare]] = {}
    for pin in held:
        if pin.pod_uid == pod_uid:
            continue
        for container in pin.containers:
            for share in container.shares:
                others.setdefault(share.uuid, []).append(share)
    mine: dict[str, list[GPUShare]] = {}
    for share in shares:
        mine.setdefault(share.uuid, []).append(share)
    for gpu in node.gpus:
        refusal = gpu.uuid in mine and _card_fits(gpu, mine[gpu.uuid], others.get(gpu.uuid, []), node.pool.capacity(gpu))
        if refusal:
            return refusal
    return None


def _card_fits(gpu: GPUDevice, mine: Sequence[GPUShare], others: Sequence[GPUShare], capacity: CardCapacity) -> Refuse | None:
    together = [*others, *mine]
    memory, held_memory = sum(s.memory_mib for s in mine), sum(s.memory_mib for s in others)
    cores, held_cores = sum(s.cores for s in mine), sum(s.cores for s in others)
    largest = max(s.memory_mib for s in mine)
    if largest > gpu.memory_mib:
        words = f"GPU {gpu.uuid}: a slice of {largest} MiB is larger than the card, which has {gpu.memory_mib} MiB"
        return Refuse(Reason.OUT_OF_MEMORY, words)
    if held_memory + memory > capacity.memory_mib:
        free = f"{max(0, capacity.memory_mib - held_memory)} of {capacity.memory_mib} MiB free on this node"
        return Refuse(Reason.OUT_OF_MEMORY, f"GPU {gpu.uuid}: {memory} MiB wanted, {free}")
    if len(together) > capacity.slices:
        held = f"{len(others)} of {capacity.slices} slices are held on this node"
        return Refuse(Reason.OUT_OF_SLICES, f"GPU {gpu.uuid}: {len(mine)} more wanted, {held}")
    if len(together) > 1 and any(s.cores == MAX_CORES for s in together):
        return Refuse(
            Reason.NOT_EXCLUSIVE, f"GPU {gpu.uuid}: a slice of 100 % has the card alone, {len(together)} would share it"
        )
    if held_cores + cores > capacity.cores:
        free = f"{max(0, capacity.cores - held_cores)} of {capacity.cores} % free on this node"
        return Refuse(Reason.OUT_OF_CORES, f"GPU {gpu.uuid}: {cores} % cores wanted, {free}")
    return None
