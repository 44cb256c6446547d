"""What a pod needs of a card and what the card has left, in numbers."""

from __future__ import annotations

from typing import Any

from mica_api.request import ContainerRequest
from mica_extender.explain.oracle import Oracle, Unsure, only_one_card, with_cards
from mica_extender.placement import Card, NodeState, Rejection, Shape


async def card_lines(shape: Shape, node: NodeState, oracle: Oracle) -> list[dict[str, Any]]:
    """Per card: capacity and what is free of it, and per asking container what it needs there and why the card is no answer."""
    lines = []
    for card in sorted(node.cards, key=lambda one: (one.index, one.uuid)):
        judged = [await _judge(oracle, shape, wanted, node, card) for wanted in shape.request.containers if wanted.asks]
        lines.append({**_stock(card, node), "containers": judged})
    return lines


def _stock(card: Card, node: NodeState) -> dict[str, Any]:
    slots = card.slots(node.max_slices)
    return {
        "uuid": card.uuid,
        "index": card.index,
        "model": card.model,
        "healthy": card.healthy,
        "cordoned": card.cordoned,
        "capacity": {"memoryMiB": card.total_mib, "cores": card.core_capacity, "slices": slots},
        "free": {
            "memoryMiB": card.total_mib - card.used_mib,
            "cores": card.core_capacity - card.used_cores,
            "slices": slots - card.slices,
        },
    }


async def _judge(oracle: Oracle, shape: Shape, wanted: ContainerRequest, node: NodeState, card: Card) -> dict[str, Any]:
    try:
        verdict = await oracle.verdict(only_one_card(shape, wanted), with_cards(node, [card]))
    except Unsure:
        verdict = None
    code = str(verdict.code) if isinstance(verdict, Rejection) else None
    needs = {"memoryMiB": wanted.memory_on(card.memory_mib), "cores": card.cores_of(wanted.cores), "slices": 1}
    return {"container": wanted.name, "needs": needs, "code": code}
