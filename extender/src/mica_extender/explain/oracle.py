"""Asking placement "would it fit?" about pods and nodes that do not exist.

Every answer comes from the same search that filter uses, so that what explain promises is what filter will do. An answer that the
search gave up on is no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Placement, Shape, Verdict, search
from mica_extender.placement.charge import members

QUESTIONS: Final = 30_000
"""Card combinations tried for one explanation, times the containers; a pod of one takes one per question and node."""


class Unsure(Exception):
    """The search was given up before it had tried everything."""


class Oracle:
    """Placement's verdicts within the effort of one explanation; lets others have the event loop after each."""

    def __init__(self) -> None:
        self._left = QUESTIONS

    @property
    def exhausted(self) -> bool:
        """Whether it answers no more."""
        return self._left <= 0

    async def verdict(self, shape: Shape, node: NodeState) -> Verdict:
        """Filter's verdict. Raises Unsure."""
        if self.exhausted:
            raise Unsure(node.name)
        found = search(shape, node)
        self._left -= max(found.tried, 1) * max(len(members(shape.request)), 1)
        await asyncio.sleep(0)
        if found.given_up:
            raise Unsure(node.name)
        return found.verdict

    async def fits(self, shape: Shape, node: NodeState) -> bool:
        """Whether filter would accept the node. Raises Unsure."""
        return isinstance(await self.verdict(shape, node), Placement)


async def greatest(low: int, high: int, fits: Callable[[int], Awaitable[bool]]) -> int | None:
    """The greatest value from ``low`` to ``high`` that fits, when every smaller one does too; None when ``low`` does not."""
    if low > high or not await fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if await fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def with_container(shape: Shape, index: int, container: ContainerRequest) -> Shape:
    """The pod with another request of one container."""
    containers = list(shape.request.containers)
    containers[index] = container
    return replace(shape, request=replace(shape.request, containers=tuple(containers)))


def with_selection(shape: Shape, selection: Selection) -> Shape:
    """The pod with other policies and filters."""
    return replace(shape, selection=selection)


def only_one_card(shape: Shape, container: ContainerRequest) -> Shape:
    """A pod that asks for a single card in the way of this container: what one card can be judged by."""
    return replace(shape, request=PodRequest((replace(container, number=1),)))


def with_free(node: NodeState, uuids: Sequence[str]) -> NodeState:
    """The node as if nothing were on these cards."""
    return replace(node, cards=tuple(emptied(card) if card.uuid in uuids else card for card in node.cards))


def with_cards(node: NodeState, cards: Sequence[Card]) -> NodeState:
    """The node as if these were its cards."""
    return replace(node, cards=tuple(cards))


def emptied(card: Card) -> Card:
    """The card with nothing on it."""
    return replace(card, used_mib=0, used_cores=0, slices=0)
