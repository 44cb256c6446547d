"""Announcing that something became free.

kube-scheduler parks a pod that was refused until an object of a kind that it watches changes; our own kinds are not among them.
So one small object of ours gets a new annotation value, at most five times a second however much becomes free.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Final

from mica_extender.metrics import Metrics
from mica_extender.ports import PokeApi
from mica_extender.state.leadership import Leadership

SPACING_S: Final = 0.2
RETRY_S: Final = 1.0


class Poker:
    """Coalesces gains into pokes. ``gain`` may be called at any rate."""

    def __init__(self, *, api: PokeApi, leadership: Leadership, metrics: Metrics) -> None:
        self._api = api
        self._leadership = leadership
        self._metrics = metrics
        self._gained = asyncio.Event()

    def gain(self) -> None:
        """Something became free."""
        self._gained.set()

    async def run(self) -> None:
        """Poke until cancelled. A replica that does not lead keeps quiet: no scheduler waits on its word."""
        while True:
            await self._gained.wait()
            self._gained.clear()
            pause = SPACING_S
            if self._leadership.leading():
                pause = await self._poke()
            await asyncio.sleep(pause)

    async def _poke(self) -> float:
        if await self._api.poke(uuid.uuid4().hex):
            self._metrics.pokes.inc()
            return SPACING_S
        self._gained.set()
        return RETRY_S
