"""The few fields of a VGPUNode that decisions need, decoded strictly and fast."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import msgspec

from mica_api.allocation import GPUShare
from mica_api.cpu import MAX_MILLI
from mica_api.request import MAX_MIB
from mica_api.sharing import NO_OVERCOMMIT, Sharing
from mica_extender.placement import Card
from mica_extender.placement.topology import link_rate

# A node's agent writes these, and sums of them live in arrays of 32 and 64 bits: what a node may say is bounded here, far beyond
# what the schema allows or any card has, so that one node that says nonsense is left out and not the end of the process.
_Percent = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_MiB = Annotated[int, msgspec.Meta(ge=0, le=MAX_MIB)]
_Milli = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLI)]


class _Named(msgspec.Struct):
    name: str


class _Link(msgspec.Struct):
    uuid: str
    type: str


class _GPU(msgspec.Struct):
    uuid: str
    index: int
    model: str
    memoryMiB: Annotated[int, msgspec.Meta(ge=1, le=MAX_MIB)]
    health: Literal["Healthy", "Unhealthy"] = "Healthy"
    numaNode: Annotated[int, msgspec.Meta(ge=-1, le=2**15)] | None = None
    mode: Literal["Shared", "Exclusive"] = "Shared"
    cordoned: bool = False
    links: list[_Link] | None = None


class _NodeSpec(msgspec.Struct):
    pool: str
    maxSlicesPerGPU: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    gpus: list[_GPU]
    memoryOvercommitPercent: _Percent = NO_OVERCOMMIT
    coresOvercommitPercent: _Percent = NO_OVERCOMMIT


class _HeldGPU(msgspec.Struct):
    uuid: str
    memoryMiB: _MiB
    cores: _Percent


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
    allocatableMilli: _Milli
    requestedMilli: _Milli


class _NodeStatus(msgspec.Struct):
    cpu: _CPU | None = None
    slices: list[_Held] | None = None
    refusals: list[_Refused] | None = None
    conditions: list[_Condition] | None = None


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
    ``by_uuid`` and ``positions`` are the cards and their places in ``cards``, to be looked up.
    """

    name: str
    pool: str
    max_slices: int
    cards: tuple[Card, ...]
    held: Mapping[str, tuple[GPUShare, ...]]
    refused: tuple[RefusedPod, ...]
    ready: bool = True
    cpu: tuple[int, int] | None = None
    by_uuid: Mapping[str, Card] = field(init=False, repr=False, compare=False)
    positions: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_uuid", {card.uuid: card for card in self.cards})
        object.__setattr__(self, "positions", {card.uuid: at for at, card in enumerate(self.cards)})


_decode: Final = msgspec.json.Decoder(_VGPUNode).decode


def decode_node(raw: bytes) -> NodeRecord:
    """Record of a VGPUNode's JSON. Raises msgspec.DecodeError."""
    node = _decode(raw)
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
