"""Sets of cards that span few NUMA nodes. A card whose NUMA node is not known belongs to one NUMA node of its own kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from mica_extender.placement.model import Card


def by_node(cards: Sequence[Card]) -> dict[int | None, list[Card]]:
    """The cards of each NUMA node, in their order."""
    groups: dict[int | None, list[Card]] = {}
    for card in cards:
        groups.setdefault(card.numa, []).append(card)
    return groups


def fewest_nodes(
    cards: Sequence[Card], keys: Sequence[tuple[int, ...]], number: int, spanned: Collection[int | None] = ()
) -> list[Card]:
    """``number`` of the cards, ranked best first, that add the fewest NUMA nodes to those ``spanned`` already.

    Of the choices with equally few, the one whose ``keys`` (one for each card) are least, compared from the best card on, and
    then the one whose cards come first.
    """
    groups = by_node(cards)
    free = [numa for numa in groups if numa in spanned]
    others = [numa for numa in groups if numa not in spanned]
    missing = number - sum(len(groups[numa]) for numa in free)
    few = _fewest(sorted((len(groups[numa]) for numa in others), reverse=True), missing)
    best: tuple[list[tuple[int, ...]], list[int]] | None = None
    for added in _additions([n for n in others if len(groups[n]) > 1], [n for n in others if len(groups[n]) == 1], few):
        usable = {*free, *added}
        ranks = [at for at, card in enumerate(cards) if card.numa in usable][:number]
        found = ([keys[at] for at in ranks], ranks)
        if len(ranks) == number and (best is None or found < best):
            best = found
    return [cards[at] for at in (best[1] if best else range(number))]


def _additions(several: Sequence[int | None], single: Sequence[int | None], few: int) -> Iterator[tuple[int | None, ...]]:
    """Sets of ``few`` NUMA nodes of which one is best. Of those with a single card, which come best first, the first will do.

    So 16 cards make at most 256 sets, however many NUMA nodes they are on.
    """
    for count in range(max(few - len(single), 0), min(few, len(several)) + 1):
        for added in combinations(several, count):
            yield (*added, *single[: few - count])


def _fewest(sizes: Sequence[int], missing: int) -> int:
    """How many of the groups, largest first, hold ``missing`` cards."""
    count = 0
    while missing > 0 and count < len(sizes):
        missing -= sizes[count]
        count += 1
    return count
