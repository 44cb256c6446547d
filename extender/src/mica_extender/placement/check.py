"""Whether one card can take a slice of a container, and the one reason a node gives when too few can.

The rules of a single card; which of the cards that can take a slice is best is ``policy``'s question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from mica_api.request import ContainerRequest
from mica_extender.placement.model import Card, Code, Rejection, Shape

PRECEDENCE: Final = (
    Code.UNREGISTERED,
    Code.COMPUTE_NOT_ALLOWED,
    Code.INSUFFICIENT_DEVICE,
    Code.NUMA_NOT_FIT,
    Code.INSUFFICIENT_MEMORY,
    Code.INSUFFICIENT_CORE,
    Code.EXCLUSIVE_CONFLICT,
    Code.SLICES_EXHAUSTED,
    Code.CORDONED,
    Code.NOT_HEALTHY,
    Code.UUID_MISMATCH,
    Code.TYPE_MISMATCH,
)
"""Of all codes that a node's cards give, the first in this order is the node's: the whole node first, then what others hold and
will give back, then what somebody must repair, then cards that the pod itself rules out."""


def check_card(
    card: Card, *, wanted: ContainerRequest, shape: Shape, max_slices: int, mutex: bool = False, before: Card | None = None
) -> Code | None:
    """The first check that a card fails for one container, or None when it can take a slice.

    ``mutex`` is the card policy of that name. ``before`` is the card without the pod's other containers: an uncapped slice is
    kept from a card whose cores are full, but not from what its own pod has filled.
    """
    if not card.healthy:
        return Code.NOT_HEALTHY
    if card.cordoned:
        return Code.CORDONED
    if not shape.selection.accepts_model(card.model):
        return Code.TYPE_MISMATCH
    if not shape.selection.accepts_uuid(card.uuid):
        return Code.UUID_MISMATCH
    if card.slices >= card.slots(max_slices):
        return Code.SLICES_EXHAUSTED
    if (mutex or wanted.exclusive) and not card.empty:
        return Code.EXCLUSIVE_CONFLICT
    memory = wanted.memory_on(card.memory_mib)
    if not 1 <= memory <= min(card.memory_mib, card.total_mib - card.used_mib):
        return Code.INSUFFICIENT_MEMORY
    if card.used_cores + wanted.cores > card.core_capacity or _full(card, before or card):
        return Code.INSUFFICIENT_CORE
    return None


def _full(card: Card, before: Card) -> bool:
    """Whether an uncapped slice is kept out. A single slice that fills all cores is exclusive, also when it is the pod's own."""
    capacity = card.core_capacity
    return card.used_cores >= capacity and (before.used_cores >= capacity or card.slices <= 1)


def could_ever(card: Card, *, wanted: ContainerRequest, shape: Shape) -> bool:
    """Whether the card could take the container if it were empty, healthy and not cordoned."""
    cleared = Card(
        card.uuid,
        card.index,
        card.model,
        card.memory_mib,
        capacity_mib=card.capacity_mib,
        core_capacity=card.core_capacity,
    )
    return check_card(cleared, wanted=wanted, shape=shape, max_slices=1) is None


def reject(shape: Shape, wanted: ContainerRequest, cards: Sequence[Card], codes: Sequence[Code | None]) -> Rejection:
    """The rejection by a node whose cards gave these codes; those that gave none are too few, or of too many NUMA nodes."""
    counter = Counter(code for code in codes if code is not None)
    fitting = len(cards) - counter.total()
    if fitting >= wanted.number:
        counter[Code.NUMA_NOT_FIT] = fitting
    counts = tuple(sorted(counter.items(), key=lambda item: str(item[0])))
    if len(cards) < wanted.number:
        return Rejection(Code.INSUFFICIENT_DEVICE, counts, len(cards), permanent=True)
    possible = [card for card in cards if could_ever(card, wanted=wanted, shape=shape)]
    return Rejection(spoken(counter), counts, len(cards), permanent=most_usable(possible, shape) < wanted.number)


def most_usable(cards: Iterable[Card], shape: Shape) -> int:
    """How many of the cards one container may have at once: all, or those of one NUMA node where the pod demands that."""
    if not shape.selection.numa_bind:
        return sum(1 for _ in cards)
    return max(Counter(card.numa for card in cards).values(), default=0)


def spoken(codes: Iterable[Code]) -> Code:
    """The one code for the user, by PRECEDENCE."""
    return min(codes, key=PRECEDENCE.index)
