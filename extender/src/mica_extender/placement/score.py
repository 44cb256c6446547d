"""How good a node is for a pod that fits on it, as an integer of high resolution: the specification that the kernels follow.

Scores count in millionths of a GPU around a common middle, so that nodes of pools with different policies can be compared, and
kube-scheduler's random choice between ties decides next to nothing. Only integers: Python, numpy and C cannot differ by rounding.

``fragmentation``: what the placement makes useless on the cards (see ``fragmentation.py``), a little for what it leaves over on
the node, the GPU that the node's CPU can no longer feed, and a price for GPUs of models that other pods are bound to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mica_api.policies import Weights
from mica_api.request import PodRequest
from mica_extender.placement.charge import charges
from mica_extender.placement.dream import LEVELS
from mica_extender.placement.fragmentation import card_loss, free_share
from mica_extender.placement.mix import FED_SHIFT, MICRO, NOTHING_LEARNED, Tables
from mica_extender.placement.model import Card, NodeState, Placement, Shape

MIDDLE: Final = 32 * MICRO
MAX_SCORE: Final = 2 * MIDDLE
LEFTOVER: Final = 25
"""Millionths for each 8 thousandths of a GPU and each 128 milli-CPU that stay free on the node: half of 0.05 GPU each."""
LEFT_GPU: Final = 8
LEFT_CPU: Final = 128


def score(shape: Shape, node: NodeState, placement: Placement, tables: Tables = NOTHING_LEARNED) -> int:
    """0 to MAX_SCORE, higher is better, under the pod's node policy or else the pool's."""
    after = _charged(node.cards, shape.request, placement)
    policy = shape.selection.node_policy or node.node_policy
    if policy == "fragmentation":
        gain = -_fragmentation(shape, node, after, tables)
    else:
        full = fullness(after, node.max_slices, shape.selection.weights or node.weights)
        gain = (full if policy == "binpack" else MICRO - full) - MICRO // 2
    return max(0, min(MAX_SCORE, MIDDLE + gain))


def fullness(cards: Sequence[Card], max_slices: int, weights: Weights | None) -> int:
    """Millionths of a node's GPUs that are taken: the fullest of slots, cores and memory, with weights their weighted mean."""
    slots = _part(sum(card.slices for card in cards), sum(card.slots(max_slices) for card in cards))
    cores = _part(sum(card.used_cores for card in cards), sum(card.core_capacity for card in cards))
    memory = _part(sum(card.used_mib for card in cards), sum(card.total_mib for card in cards))
    if weights is None:
        return max(slots, cores, memory)
    total = weights.slot + weights.core + weights.memory
    return (weights.slot * slots + weights.core * cores + weights.memory * memory) // total


def starved(free: int, cpu_left: int, fed: int) -> int:
    """Millionths of a GPU, of ``free`` thousandths, that the CPU cannot feed; 0 where CPU is unknown or does not count."""
    if not fed or cpu_left < 0:
        return 0
    return max(0, free * (MICRO // LEVELS) - (cpu_left * fed >> FED_SHIFT))


def apply(cards: Sequence[Card], placement: Placement) -> tuple[Card, ...]:
    """The cards with the app containers' shares taken."""
    by_uuid = {card.uuid: card for card in cards}
    for share in (share for shares in placement.shares for share in shares):
        by_uuid[share.uuid] = by_uuid[share.uuid].with_slice(memory_mib=share.memory_mib, cores=share.cores)
    return tuple(by_uuid[card.uuid] for card in cards)


def _charged(cards: Sequence[Card], request: PodRequest, placement: Placement) -> tuple[Card, ...]:
    """The cards with what the placed pod is charged; the very same objects where that is nothing."""
    taken = charges(request, placement, cards)
    return tuple(card.plus(**taken[card.uuid]._asdict()) if card.uuid in taken else card for card in cards)


def _fragmentation(shape: Shape, node: NodeState, after: Sequence[Card], tables: Tables) -> int:
    """Millionths of a GPU that the placement costs."""
    free = [free_share(card) for card in node.cards]
    left = [free_share(card) for card in after]
    cost = 0
    for card, then in zip(node.cards, after, strict=True):
        if then is not card:
            cost += card_loss(card, then, tables=tables, max_slices=node.max_slices)
    cost += sum(left) * LEFTOVER // LEFT_GPU
    if node.cpu_left >= 0:
        cpu = max(0, node.cpu_left - shape.cpu_milli)
        cost += cpu * LEFTOVER // LEFT_CPU
        cost += starved(sum(left), cpu, tables.fed) - starved(sum(free), node.cpu_left, tables.fed)
    return cost


def _part(taken: int, total: int) -> int:
    return min(MICRO, taken * MICRO // total) if total else 0
