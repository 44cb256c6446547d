"""How much of the process one request may take: a budget over all its nodes, and pauses in which others are served.

Placement is pure and does not know of this; what calls it for many nodes in the event loop does.
"""

from __future__ import annotations

import asyncio
from typing import Final

from mica_extender.placement import SEARCH_BUDGET, Found, NodeState, Shape, search
from mica_extender.placement.policy import CardCost

REQUEST_BUDGET: Final = 40 * SEARCH_BUDGET
"""Card combinations tried for one request; on the nodes after that only the best cards of each container are tried."""
PAUSE_EVERY: Final = 25
"""Combinations between two pauses; a pod of one container takes one per node."""


class Effort:
    """What one request has cost so far."""

    def __init__(self) -> None:
        self.tried = 0
        self._paused_at = 0
        self._shared = 0.0

    def search(self, shape: Shape, node: NodeState, *, cost: CardCost | None = None) -> tuple[Found, bool]:
        """Verdict on one node, and whether it is final: not given up because of what other nodes have cost.

        ``cost`` is what the card policy ``fragmentation`` compares; which cards are chosen is all that it changes.
        """
        budget = min(SEARCH_BUDGET, max(REQUEST_BUDGET - self.tried, 0))
        found = search(shape, node, budget=budget, cost=cost)
        self.tried += found.tried
        return found, budget == SEARCH_BUDGET or not found.given_up

    async def pause(self) -> None:
        """Let others have the event loop when enough was done since the last pause."""
        if self.tried - self._paused_at >= PAUSE_EVERY:
            self._paused_at = self.tried
            await asyncio.sleep(0)

    async def share(self, part: float) -> None:
        """Let others have the event loop when the parts of a turn that are taken since the last pause come to more than one."""
        self._shared += part
        if self._shared > 1:
            self._shared = part
            await asyncio.sleep(0)
