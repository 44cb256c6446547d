"""How much GPU a placement makes useless: the cost by which the policy ``fragmentation`` compares cards and, summed, nodes.

A card's free share is the smaller of its free memory and its free cores, in thousandths of the card. What is expected to remain
unused of it is read from the mix's table; all of it is lost on a card that takes no further slice. Pure functions, integers only;
the kernels compute the same.
"""

from __future__ import annotations

from mica_api.request import ContainerRequest
from mica_extender.placement.dream import LEVELS
from mica_extender.placement.mix import MICRO, NOTHING_LEARNED, Tables
from mica_extender.placement.model import Card


def free_share(card: Card) -> int:
    """Thousandths of the card that are free; 0 on a card that takes nothing."""
    if not card.healthy or card.cordoned:
        return 0
    memory = (card.total_mib - card.used_mib) * LEVELS // card.total_mib
    return max(0, min(LEVELS, memory, (card.core_capacity - card.used_cores) * LEVELS // card.core_capacity))


def waste(card: Card, *, tables: Tables, max_slices: int) -> int:
    """Millionths of a GPU of the card's free share that nobody is expected ever to use."""
    share = free_share(card)
    if card.slices >= card.slots(max_slices):
        return share * (MICRO // LEVELS)
    return tables.waste_of(card.model)[share]


def card_loss(card: Card, then: Card, *, tables: Tables, max_slices: int) -> int:
    """Millionths of a GPU that are lost when the card becomes ``then``: what turns useless, and the price of a scarce model."""
    lost = waste(then, tables=tables, max_slices=max_slices) - waste(card, tables=tables, max_slices=max_slices)
    return lost + tables.scarcity.get(card.model, 0) * (free_share(card) - free_share(then)) // LEVELS


def card_key(
    card: Card, /, *, wanted: ContainerRequest, max_slices: int, tables: Tables = NOTHING_LEARNED
) -> tuple[int, int, int]:
    """Sort key of cards for a slice of the container under card policy ``fragmentation``: the least loss, then the fullest.

    Cards of one key are alike to the node's score, whichever of them is taken.
    """
    then = card.with_slice(memory_mib=wanted.memory_on(card.memory_mib), cores=wanted.cores)
    return card_loss(card, then, tables=tables, max_slices=max_slices), free_share(card), free_share(then)
