"""How much of one GPU may be given out, by the way its pool slices it. One rule for the scheduler, the node and the operator.

Values only: who holds what is the ledger's and the node's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mica_api.request import MAX_CORES

NO_OVERCOMMIT: Final = 100
"""Percent of the physical card: what is there, and no more."""


@dataclass(frozen=True, slots=True)
class CardCapacity:
    """Upper bounds of sums over the slices of one card: ``slices`` counted, ``cores`` in percent, ``memory_mib`` in MiB."""

    slices: int
    cores: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a pool slices its cards; 100 percent means no overcommit."""

    max_slices: int
    memory_overcommit_percent: int = NO_OVERCOMMIT
    cores_overcommit_percent: int = NO_OVERCOMMIT

    def capacity(self, memory_mib: int, *, exclusive: bool = False) -> CardCapacity:
        """Capacity of a card with ``memory_mib`` MiB; an exclusive one takes a single slice and is never overcommitted.

        No single slice may be larger than the physical card, whatever the capacity; fractions of a MiB or percent are dropped.
        """
        if exclusive:
            return CardCapacity(1, MAX_CORES, memory_mib)
        return CardCapacity(
            self.max_slices,
            MAX_CORES * self.cores_overcommit_percent // 100,
            memory_mib * self.memory_overcommit_percent // 100,
        )
