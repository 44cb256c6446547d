"""The few fields of Kubernetes objects that decisions need, decoded strictly and fast.

Not the models of the CRDs: those describe whole objects and cost ten times as much to decode for each event.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from mica_api import names
from mica_api.allocation import GPUShare, InvalidAllocation, decode_pod_allocation
from mica_api.cpu import ContainerCPU, parse_milli, pod_milli
from mica_api.policies import (
    DEFAULT_CARD_POLICY,
    DEFAULT_NODE_POLICY,
    CardPolicy,
    NodePolicy,
    Weights,
    check_card_policy,
    parse_node_policy,
)
from mica_api.request import InvalidRequest, read_request
from mica_api.selection import SELECTION_ANNOTATIONS, read_selection
from mica_api.sharing import NO_OVERCOMMIT, Sharing
from mica_extender.placement import Card, Shape
from mica_extender.placement.topology import link_rate

_TERMINAL: Final = frozenset({"Succeeded", "Failed"})


class _Owner(msgspec.Struct):
    controller: bool = False


class _PodMeta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    deletionTimestamp: str | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[_Owner] | None = None


class _Resources(msgspec.Struct):
    limits: dict[str, str] | None = None
    requests: dict[str, str] | None = None


class _Container(msgspec.Struct):
    name: str
    resources: _Resources = msgspec.field(default_factory=_Resources)
    restartPolicy: str = ""


class _PodSpec(msgspec.Struct):
    nodeName: str = ""
    schedulerName: str = ""
    containers: list[_Container] = msgspec.field(default_factory=list)
    initContainers: list[_Container] | None = None
    overhead: dict[str, str] | None = None
    resources: _Resources | None = None


class _PodStatus(msgspec.Struct):
    phase: str = ""


class Pod(msgspec.Struct):
    """A pod on the wire, as far as it matters here."""

    metadata: _PodMeta = msgspec.field(default_factory=_PodMeta)
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod as decisions see it.

    ``shape`` is None when the pod's request cannot be honoured, and ``problem`` then says why. ``shares`` are per app container
    and present only when the pod is bound and its allocation annotations name this very pod and node: others never count.
    ``cpu_milli`` is the CPU that the pod requests. ``original`` is what it asked for in another system's words; kept until it is
    bound, like the number of its init containers.
    """

    namespace: str
    name: str
    uid: str
    revision: str
    node: str
    scheduler: str
    terminal: bool
    deleting: bool
    controlled: bool
    shape: Shape | None
    problem: str
    shares: tuple[tuple[GPUShare, ...], ...] | None
    cpu_milli: int = 0
    original: str = ""
    init_containers: int = 0

    @property
    def key(self) -> str:
        """Name for messages and key of the reflector's copy."""
        return f"{self.namespace}/{self.name}"


class _Link(msgspec.Struct):
    uuid: str
    type: str


class _GPU(msgspec.Struct):
    uuid: str
    index: int
    model: str
    memoryMiB: int
    health: Literal["Healthy", "Unhealthy"] = "Healthy"
    numaNode: int | None = None
    mode: Literal["Shared", "Exclusive"] = "Shared"
    cordoned: bool = False
    links: list[_Link] | None = None


class _NodeSpec(msgspec.Struct):
    pool: str
    maxSlicesPerGPU: int
    gpus: list[_GPU]
    memoryOvercommitPercent: int = NO_OVERCOMMIT
    coresOvercommitPercent: int = NO_OVERCOMMIT


class _HeldGPU(msgspec.Struct):
    uuid: str
    memoryMiB: int
    cores: int


class _Held(msgspec.Struct):
    podUID: str
    gpus: list[_HeldGPU]


class _Refused(msgspec.Struct):
    podUID: str
    namespace: str
    pod: str
    reason: str = ""


class _Condition(msgspec.Struct):
    type: str
    status: str


class _CPU(msgspec.Struct):
    allocatableMilli: int
    requestedMilli: int


class _NodeStatus(msgspec.Struct):
    cpu: _CPU | None = None
    slices: list[_Held] | None = None
    refusals: list[_Refused] | None = None
    conditions: list[_Condition] | None = None


class _Named(msgspec.Struct):
    name: str


class _VGPUNode(msgspec.Struct):
    metadata: _Named
    spec: _NodeSpec
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


@dataclass(frozen=True, slots=True)
class RefusedPod:
    """A pod that a node's agent did not let start."""

    uid: str
    namespace: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """Inventory of a node (cards with nothing taken), the shares that its agent says are held, by pod uid, and its refusals.

    ``cpu`` is what the node can allocate and what pods without slices request of it, in milli; None when nobody says.
    """

    name: str
    pool: str
    max_slices: int
    cards: tuple[Card, ...]
    held: Mapping[str, tuple[GPUShare, ...]]
    refused: tuple[RefusedPod, ...]
    ready: bool = True
    cpu: tuple[int, int] | None = None


class _Weights(msgspec.Struct):
    slots: int
    cores: int
    memory: int


class _PoolPlacement(msgspec.Struct):
    node: str = DEFAULT_NODE_POLICY
    gpu: tuple[str, ...] = DEFAULT_CARD_POLICY
    weights: _Weights | None = None


class _PoolSpec(msgspec.Struct):
    placement: _PoolPlacement = msgspec.field(default_factory=_PoolPlacement)


class _VGPUPool(msgspec.Struct):
    metadata: _Named
    spec: _PoolSpec = msgspec.field(default_factory=_PoolSpec)


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """Default policies and weights of a pool."""

    name: str
    node_policy: NodePolicy = DEFAULT_NODE_POLICY
    gpu_policy: tuple[CardPolicy, ...] = DEFAULT_CARD_POLICY
    weights: Weights | None = None


class _LeaseSpec(msgspec.Struct):
    holderIdentity: str | None = None
    leaseDurationSeconds: int | None = None
    renewTime: str | None = None
    leaseTransitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Named
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A leader election's Lease. ``renewed`` is another machine's clock: it is only ever compared with itself.

    ``transitions`` counts the holders.
    """

    name: str
    holder: str
    duration_s: int
    renewed: str
    transitions: int = 0


_pod: Final = msgspec.json.Decoder(Pod).decode
_node: Final = msgspec.json.Decoder(_VGPUNode).decode
_pool: Final = msgspec.json.Decoder(_VGPUPool).decode
_lease: Final = msgspec.json.Decoder(_Lease).decode


def decode_pod(raw: bytes) -> PodRecord:
    """Record of a pod's JSON. Raises msgspec.DecodeError."""
    return pod_record(_pod(raw))


def pod_record(pod: Pod) -> PodRecord:
    """Record of a decoded pod."""
    meta, spec = pod.metadata, pod.spec
    annotations = meta.annotations or {}
    cpu_milli = _cpu_milli(spec)
    shape, problem = _shapes.of(spec.containers, annotations, cpu_milli)
    node = sys.intern(spec.nodeName)
    return PodRecord(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        revision=meta.resourceVersion,
        node=node,
        scheduler=sys.intern(spec.schedulerName),
        terminal=pod.status.phase in _TERMINAL,
        deleting=meta.deletionTimestamp is not None,
        controlled=any(owner.controller for owner in meta.ownerReferences or []),
        shape=shape,
        problem=problem,
        shares=_stored_shares(annotations, uid=meta.uid, node=node, containers=len(spec.containers)),
        cpu_milli=cpu_milli,
        original="" if node else annotations.get(names.ANNOTATION_ORIGINAL, ""),
        init_containers=0 if node else len(spec.initContainers or []),
    )


class _Shapes:
    """Shapes that were read lately, so that equal pods share one object and are read once. Bounded."""

    def __init__(self) -> None:
        self._known: OrderedDict[object, tuple[Shape | None, str]] = OrderedDict()

    def of(self, containers: list[_Container], annotations: Mapping[str, str], cpu_milli: int) -> tuple[Shape | None, str]:
        """The shape of a pod, or None and what is wrong with its request."""
        limits = tuple((c.name, tuple((c.resources.limits or {}).items())) for c in containers)
        deciding = tuple(item for item in annotations.items() if item[0] in _DECIDING)
        key = (limits, deciding, cpu_milli)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _read_shape(containers, annotations, cpu_milli)
            if len(self._known) > MAX_SHAPES:
                self._known.popitem(last=False)
        return known


def _short(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM else f"{text[: MAX_PROBLEM - 1]}…"


MAX_SHAPES: Final = 4096
MAX_PROBLEM: Final = 500
"""Characters of what is wrong with a request. It quotes what people wrote, and an answer of filter has it once for every node."""
_DECIDING: Final = SELECTION_ANNOTATIONS | {names.ANNOTATION_REQUEST}
"""What a shape is read from. The others are many, large and different for every pod."""
_shapes: Final = _Shapes()


def _read_shape(containers: list[_Container], annotations: Mapping[str, str], cpu_milli: int) -> tuple[Shape | None, str]:
    limits = [(c.name, c.resources.limits or {}) for c in containers]
    try:
        return Shape(read_request(limits, annotations), read_selection(annotations), cpu_milli), ""
    except InvalidRequest as error:
        return None, _short(str(error))


def _cpu_milli(spec: _PodSpec) -> int:
    """CPU that the pod requests; an amount that cannot be read counts as nothing, because CPU decides nothing by itself."""
    whole = spec.resources.requests if spec.resources else None
    return pod_milli(
        apps=[_cpu(c.resources.requests) for c in spec.containers],
        inits=[ContainerCPU(_cpu(c.resources.requests), c.restartPolicy == "Always") for c in spec.initContainers or ()],
        overhead=_cpu(spec.overhead),
        whole=_cpu(whole) if whole and "cpu" in whole else None,
    )


def _cpu(amounts: Mapping[str, str] | None) -> int:
    text = amounts.get("cpu", "") if amounts else ""
    try:
        return parse_milli(text) if text else 0
    except ValueError:
        return 0


def _stored_shares(
    annotations: Mapping[str, str], *, uid: str, node: str, containers: int
) -> tuple[tuple[GPUShare, ...], ...] | None:
    if not node:
        return None
    try:
        stored = decode_pod_allocation(annotations, containers)
    except InvalidAllocation:
        return None
    if stored is None or any(c.pod_uid != uid or c.node != node for c in stored):
        return None
    return tuple(tuple(GPUShare(sys.intern(s.uuid), s.memory_mib, s.cores) for s in c.shares) for c in stored)


def decode_node(raw: bytes) -> NodeRecord:
    """Record of a VGPUNode's JSON. Raises msgspec.DecodeError."""
    node = _node(raw)
    spec = node.spec
    sharing = Sharing(spec.maxSlicesPerGPU, spec.memoryOvercommitPercent, spec.coresOvercommitPercent)
    held: dict[str, tuple[GPUShare, ...]] = {}
    for item in node.status.slices or []:
        shares = tuple(GPUShare(sys.intern(g.uuid), g.memoryMiB, g.cores) for g in item.gpus)
        held[item.podUID] = held.get(item.podUID, ()) + shares
    return NodeRecord(
        name=sys.intern(node.metadata.name),
        pool=sys.intern(spec.pool),
        max_slices=spec.maxSlicesPerGPU,
        cards=tuple(_card(gpu, sharing) for gpu in spec.gpus),
        held=held,
        ready=all(c.status != "False" for c in node.status.conditions or [] if c.type == "Ready"),
        refused=tuple(RefusedPod(r.podUID, r.namespace, r.pod, r.reason) for r in node.status.refusals or []),
        cpu=(cpu.allocatableMilli, cpu.requestedMilli) if (cpu := node.status.cpu) else None,
    )


def _card(gpu: _GPU, sharing: Sharing) -> Card:
    exclusive = gpu.mode == "Exclusive"
    capacity = sharing.capacity(gpu.memoryMiB, exclusive=exclusive)
    return Card(
        sys.intern(gpu.uuid),
        gpu.index,
        sys.intern(gpu.model),
        gpu.memoryMiB,
        gpu.health == "Healthy",
        cordoned=gpu.cordoned,
        capacity_mib=capacity.memory_mib,
        core_capacity=capacity.cores,
        max_slices=capacity.slices if exclusive else 0,
        numa=gpu.numaNode,
        links=tuple((sys.intern(link.uuid), link_rate(link.type)) for link in gpu.links or ()),
    )


def decode_pool(raw: bytes) -> PoolRecord:
    """Record of a VGPUPool's JSON. Raises msgspec.DecodeError."""
    pool = _pool(raw)
    placement = pool.spec.placement
    weights = placement.weights
    try:
        return PoolRecord(
            pool.metadata.name,
            node_policy=parse_node_policy("placement.node", placement.node),
            gpu_policy=check_card_policy("placement.gpu", placement.gpu),
            weights=Weights(weights.slots, weights.cores, weights.memory) if weights else None,
        )
    except InvalidRequest as error:
        raise msgspec.ValidationError(f"VGPUPool {pool.metadata.name}: {error}") from error


def decode_lease(raw: bytes) -> LeaseRecord:
    """Record of a Lease's JSON. Raises msgspec.DecodeError."""
    lease = _lease(raw)
    spec = lease.spec
    return LeaseRecord(
        lease.metadata.name,
        holder=spec.holderIdentity or "",
        duration_s=spec.leaseDurationSeconds or 0,
        renewed=spec.renewTime or "",
        transitions=spec.leaseTransitions or 0,
    )
