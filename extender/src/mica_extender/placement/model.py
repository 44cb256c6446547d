"""Values of placement: cards, nodes, what a pod wants, and the answer for one node."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mica_api.allocation import GPUShare
from mica_api.compute import DEFAULT_RULES, ComputeRules
from mica_api.policies import DEFAULT_CARD_POLICY, DEFAULT_NODE_POLICY, CardPolicy, NodePolicy, Weights
from mica_api.request import MAX_CORES, PodRequest
from mica_api.selection import Selection


class Code(StrEnum):
    """Why a card or a node is no answer, spelt as HAMi's users know it. The order is the order of the checks on a card."""

    UNREGISTERED = "node unregistered"
    COMPUTE_NOT_ALLOWED = "NodeComputeNotAllowed"
    NOT_HEALTHY = "CardNotHealth"
    CORDONED = "CardCordoned"
    TYPE_MISMATCH = "CardTypeMismatch"
    UUID_MISMATCH = "CardUuidMismatch"
    SLICES_EXHAUSTED = "CardTimeSlicingExhausted"
    EXCLUSIVE_CONFLICT = "ExclusiveDeviceAllocateConflict"
    INSUFFICIENT_MEMORY = "CardInsufficientMemory"
    INSUFFICIENT_CORE = "CardInsufficientCore"
    NUMA_NOT_FIT = "NumaNotFit"
    INSUFFICIENT_DEVICE = "NodeInsufficientDevice"


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU and what is taken of it: memory in MiB, cores in percent, slices as a count.

    ``memory_mib`` is physical: no slice is larger. ``capacity_mib`` (0: the physical memory) and ``core_capacity`` are what all
    slices together may take, with overcommit; ``max_slices`` is 0 where the node's holds, and 1 in mode Exclusive.
    ``numa`` is None when not known. ``links`` are the rates to other cards of the node by UUID (see ``topology.link_rate``); one
    end of a link is enough.
    """

    uuid: str
    index: int
    model: str
    memory_mib: int
    healthy: bool = True
    used_mib: int = 0
    used_cores: int = 0
    slices: int = 0
    cordoned: bool = False
    capacity_mib: int = 0
    core_capacity: int = MAX_CORES
    max_slices: int = 0
    numa: int | None = None
    links: tuple[tuple[str, int], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nobody holds a slice of it."""
        return self.slices == 0 and self.used_mib == 0 and self.used_cores == 0

    @property
    def total_mib(self) -> int:
        """Memory that may be given out, in MiB."""
        return self.capacity_mib or self.memory_mib

    def slots(self, max_slices: int) -> int:
        """Slices that may share the card on a node with this ``max_slices``."""
        return self.max_slices or max_slices

    def cores_of(self, cores: int) -> int:
        """Cores that one slice takes: an exclusive one all there is to give, so that overcommit lets nobody join it."""
        return self.core_capacity if cores >= MAX_CORES else cores

    def with_slice(self, *, memory_mib: int, cores: int) -> Card:
        """The card with one more slice on it."""
        return self.plus(memory_mib=memory_mib, cores=self.cores_of(cores))

    def plus(self, *, memory_mib: int, cores: int, slices: int = 1) -> Card:
        """The card with these sums more taken of it."""
        return Card(
            self.uuid,
            self.index,
            self.model,
            self.memory_mib,
            self.healthy,
            self.used_mib + memory_mib,
            self.used_cores + cores,
            self.slices + slices,
            self.cordoned,
            self.capacity_mib,
            self.core_capacity,
            self.max_slices,
            self.numa,
            self.links,
        )


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node at one moment. Policies, weights and ``compute`` are its pool's; ``ready`` is what its agent says of itself.

    CPU is in milli, -1 when nobody reports it; it decides scores only.
    """

    name: str
    max_slices: int
    cards: tuple[Card, ...]
    node_policy: NodePolicy = DEFAULT_NODE_POLICY
    gpu_policy: tuple[CardPolicy, ...] = DEFAULT_CARD_POLICY
    ready: bool = True
    weights: Weights | None = None
    cpu_total: int = -1
    cpu_left: int = -1
    compute: ComputeRules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class Shape:
    """All that decides where a pod can go; pods with equal shapes get equal answers.

    ``cpu_milli`` is what the pod requests of the node's CPU; it decides scores only.
    """

    request: PodRequest
    selection: Selection = field(default_factory=Selection)
    cpu_milli: int = 0
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    """A request looks its shape up several times, and what is in it is deep."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.request, self.selection, self.cpu_milli)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Shape], tuple[PodRequest, Selection, int]]:
        """Another process hashes strings in another way."""
        return Shape, (self.request, self.selection, self.cpu_milli)


@dataclass(frozen=True, slots=True)
class Placement:
    """Shares for every app container of the pod, in its order, and for every init container; who asks for nothing has none."""

    shares: tuple[tuple[GPUShare, ...], ...]
    init: tuple[tuple[GPUShare, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the pod does not fit on the node.

    ``code`` is what a user should read, ``counts`` how many of the ``cards`` failed by which code, ``permanent`` whether no
    slice that ends could change it.
    """

    code: Code
    counts: tuple[tuple[Code, int], ...] = ()
    cards: int = 0
    permanent: bool = False

    @property
    def counted(self) -> str:
        """``6/8 CardInsufficientMemory, 2/8 CardInsufficientCore``; the code alone when no card was looked at."""
        parts = [f"{count}/{self.cards} {code}" for code, count in self.counts]
        return ", ".join(parts) or str(self.code)


Verdict = Placement | Rejection
