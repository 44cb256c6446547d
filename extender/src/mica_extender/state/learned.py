"""What the pods seen so far teach about scores, kept current beside the event loop.

Every new pod is counted at once; making tables of the counts takes some ten milliseconds (without the C kernel a third of a
second), so that it is done in a thread, and until it is done the tables of before hold. Scores are better or worse by them, never
wrong.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from mica_extender.placement.dream import Dream
from mica_extender.placement.fleet import Fleet
from mica_extender.placement.fragmentation import card_key
from mica_extender.placement.mix import NOTHING_LEARNED, Dreamer, Mix, Supply, Tables
from mica_extender.placement.model import Shape
from mica_extender.placement.policy import CardCost
from mica_extender.placement.scoring import CompiledTables, supply_of

LOOK_EVERY_S: Final = 1.0
_SWITCH_S: Final = 0.0005
MAX_PENDING: Final = 10_000
"""Pods that may come while tables are made; more are not counted."""


class Learned:
    """The mix of pods over one fleet, and its present tables."""

    def __init__(self, fleet: Fleet, dreamer: Callable[[], Dreamer] = Dream) -> None:
        self.tables: Tables = NOTHING_LEARNED
        self._fleet = fleet
        self._mix = Mix(dreamer)
        self._compiled = CompiledTables(NOTHING_LEARNED, fleet)
        self._pending: list[Shape] = []
        self._busy = False
        self._supply = Supply()
        self._layout = -1

    def observe(self, shape: Shape) -> None:
        """Count a pod, once, when it is first seen."""
        if not self._busy:
            self._mix.observe(shape)
        elif len(self._pending) < MAX_PENDING:
            self._pending.append(shape)

    def compiled(self) -> CompiledTables:
        """The tables as the kernels read them."""
        if self._compiled.tables is not self.tables or self._compiled.layout != self._fleet.layout:
            self._compiled = CompiledTables(self.tables, self._fleet)
        return self._compiled

    def cost(self) -> CardCost:
        """What the card policy ``fragmentation`` compares."""
        return partial(card_key, tables=self.tables)

    async def refresh(self) -> None:
        """Make the tables anew if enough pods have come or the nodes are others. Not to be called twice at once."""
        if self._layout != self._fleet.layout:
            self._layout, self._supply = self._fleet.layout, supply_of(self._fleet)
        self._busy = True
        try:
            self.tables = await asyncio.to_thread(self._mix.current, self._supply)
        finally:
            self._busy = False
            for shape in self._pending:
                self._mix.observe(shape)
            self._pending.clear()

    async def run(self, loaded: Callable[[], bool]) -> None:
        """Refresh until cancelled, from when ``loaded`` says that the first lists are complete."""
        # By default the thread keeps the interpreter for 5 ms whenever the loop wants it back.
        sys.setswitchinterval(_SWITCH_S)
        while True:
            if loaded():
                await self.refresh()
            await asyncio.sleep(LOOK_EVERY_S)
