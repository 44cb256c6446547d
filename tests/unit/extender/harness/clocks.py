"""Clocks of machines in the model: an hour off, and jumping. Nothing that the extender decides may hang on what one shows."""

from __future__ import annotations

import random

_HOUR_S = 3600
_ANYWHEN_S = 1_700_000_000


class WallClock:
    """Seconds since 1970 as one machine tells them; never the same twice.

    Draws from a source of its own, so that a story is the same whether clocks jump or not.
    """

    def __init__(self, seed: str, *, jumps: bool) -> None:
        self._random = random.Random(seed)
        self._jumps = jumps
        self._asked = 0
        self._hours = 0

    def __call__(self) -> int:
        """The time: a moment later than before or, if it jumps, mostly an hour earlier and sometimes two later."""
        self._asked += 1
        self._hours += self._random.choice((-1, -1, -1, 2)) if self._jumps else 0
        return _ANYWHEN_S + self._hours * _HOUR_S + self._asked
