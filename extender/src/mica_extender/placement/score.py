"""How good a node is for a pod that fits on it, as an integer of high resolution.

kube-scheduler breaks ties at random, so that scores of ten steps would place nearly at random; these have a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from mica_api.allocation import GPUShare
from mica_extender.placement.model import Card, NodeState, Placement, Shape

MAX_SCORE: Final = 100_000
_CARD_PART: Final = Fraction(1, 100)
"""How much the fullness of the chosen cards weighs beside the node's: enough to decide between equally full nodes."""


def score(shape: Shape, node: NodeState, placement: Placement) -> int:
    """0 to MAX_SCORE, higher is better, under the pod's node policy or else the pool's.

    The fullness of a node is the mean over its cards of the fullest dimension after the placement.
    """
    cards = apply(node.cards, placement)
    if not cards:
        return 0
    chosen = {share.uuid for shares in placement.shares for share in shares}
    used = [card.utilisation(node.max_slices) for card in cards]
    taken = [u for card, u in zip(cards, used, strict=True) if card.uuid in chosen]
    whole = min(sum(used, Fraction(0)) / len(used), Fraction(1))
    part = min(sum(taken, Fraction(0)) / len(taken), Fraction(1)) if taken else Fraction(0)
    full = whole * (1 - _CARD_PART) + part * _CARD_PART
    policy = shape.selection.node_policy or node.node_policy
    return round(MAX_SCORE * (full if policy == "binpack" else 1 - full))


def apply(cards: Sequence[Card], placement: Placement) -> tuple[Card, ...]:
    """The cards with the placement's shares taken."""
    by_uuid = {card.uuid: card for card in cards}
    for share in _shares(placement):
        by_uuid[share.uuid] = by_uuid[share.uuid].plus(memory_mib=share.memory_mib, cores=share.cores)
    return tuple(by_uuid[card.uuid] for card in cards)


def _shares(placement: Placement) -> list[GPUShare]:
    return [share for shares in placement.shares for share in shares]
