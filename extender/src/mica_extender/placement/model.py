"""Values of placement: cards, nodes, what a pod wants, and the answer for one node."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

from mica_api.allocation import GPUShare
from mica_api.request import MAX_CORES, PodRequest
from mica_api.selection import Policy, Selection


class Code(StrEnum):
    """Why a card or a node is no answer, spelt as HAMi's users know it. The order is the order of the checks on a card."""

    UNREGISTERED = "node unregistered"
    NOT_HEALTHY = "CardNotHealth"
    TYPE_MISMATCH = "CardTypeMismatch"
    UUID_MISMATCH = "CardUuidMismatch"
    SLICES_EXHAUSTED = "CardTimeSlicingExhausted"
    EXCLUSIVE_CONFLICT = "ExclusiveDeviceAllocateConflict"
    INSUFFICIENT_MEMORY = "CardInsufficientMemory"
    INSUFFICIENT_CORE = "CardInsufficientCore"
    INSUFFICIENT_DEVICE = "NodeInsufficientDevice"


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU and what is taken of it: memory in MiB, cores in percent, slices as a count."""

    uuid: str
    index: int
    model: str
    memory_mib: int
    healthy: bool = True
    used_mib: int = 0
    used_cores: int = 0
    slices: int = 0

    @property
    def empty(self) -> bool:
        """Whether nobody holds a slice of it."""
        return self.slices == 0 and self.used_mib == 0 and self.used_cores == 0

    def plus(self, *, memory_mib: int, cores: int, slices: int = 1) -> Card:
        """The card with more taken of it."""
        return Card(
            self.uuid,
            self.index,
            self.model,
            self.memory_mib,
            self.healthy,
            self.used_mib + memory_mib,
            self.used_cores + cores,
            self.slices + slices,
        )

    def utilisation(self, max_slices: int) -> Fraction:
        """The fullest of memory, cores and slices, 0 to 1 on a card that is not over-committed."""
        return max(self._fractions(max_slices))

    def load(self, max_slices: int) -> Fraction:
        """Memory, cores and slices together, 0 to 3."""
        return sum(self._fractions(max_slices), Fraction(0))

    def _fractions(self, max_slices: int) -> tuple[Fraction, Fraction, Fraction]:
        return (
            Fraction(self.used_mib, self.memory_mib),
            Fraction(self.used_cores, MAX_CORES),
            Fraction(self.slices, max_slices),
        )


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node at one moment. The policies are its pool's defaults; ``ready`` is what its agent says of itself."""

    name: str
    max_slices: int
    cards: tuple[Card, ...]
    node_policy: Policy = "binpack"
    gpu_policy: Policy = "binpack"
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Shape:
    """All that decides where a pod can go; pods with equal shapes get equal answers.

    ``cpu_milli`` is the CPU that the pod's containers request together; it counts in scores only.
    """

    request: PodRequest
    selection: Selection = field(default_factory=Selection)
    cpu_milli: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Shares for every app container of the pod, in its order; a container that asks for nothing has none."""

    shares: tuple[tuple[GPUShare, ...], ...]


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
