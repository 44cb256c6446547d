"""Requests that wait for an engine: one bounded line per service, let go in steps.

After a cold start the line is let go in steps that double, so that the first engine does not get everybody at once. A request
that leaves an engine lets one waiting request try. Waiting requests are looked at in order; one that still finds no engine keeps
its place and does not keep those behind it from finding one.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Protocol

from mica_router.core.routes import ServiceKey
from mica_router.ports import Counts
from mica_router.relay.counting import take_place

_FIRST_STEP = 4
_LOOKED_AT = 16


class Waiter(Protocol):
    """A held request."""

    waiting_since: float

    def try_again(self) -> bool:
        """Look for an engine. False: there is still none; the waiter stays in line. True: it needs the line no longer."""


class WaitingRoom:
    """Lines of one process; `lines`, by service, has no empty ones. `counts` adds up those of all workers."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.lines: dict[ServiceKey, OrderedDict[Waiter, None]] = {}
        self._steps: dict[ServiceKey, int] = {}
        self._releasing = False

    def __len__(self) -> int:
        return sum(len(line) for line in self.lines.values())

    def __bool__(self) -> bool:
        return bool(self.lines)

    def length(self, key: ServiceKey) -> int:
        """How many wait for this service."""
        return len(self.lines.get(key, ()))

    def oldest(self, key: ServiceKey) -> float | None:
        """Since when the first in line waits."""
        line = self.lines.get(key)
        return next(iter(line)).waiting_since if line else None

    def join(self, key: ServiceKey, waiter: Waiter, *, room: int) -> bool:
        """To the end of the line, unless more than `room` would then wait at all workers together."""
        if not take_place(self._counts, key, most=room):
            return False
        self.lines.setdefault(key, OrderedDict())[waiter] = None
        return True

    def leave(self, key: ServiceKey, waiter: Waiter) -> None:
        """Out of the line, wherever it stands."""
        line = self.lines.get(key)
        if line is None:
            return
        if waiter in line:
            del line[waiter]
            self._counts.add(key, -1)
        if not line:
            del self.lines[key]
            self._steps.pop(key, None)

    def release_one(self, key: ServiceKey) -> None:
        """Room for one has appeared."""
        if key in self.lines:
            self._release(key, 1)

    def release_step(self) -> None:
        """Called by the sweep: let the next step of every line try."""
        for key in list(self.lines):
            step = self._steps.get(key, _FIRST_STEP)
            if self._release(key, step) == step:
                self._steps[key] = step * 2

    def _release(self, key: ServiceKey, most: int) -> int:
        """Let up to `most` go; stops after some that find nothing. Returns how many went.

        A request that ends while it is let go would let the next one go: that is left to the next step.
        """
        if self._releasing:
            return 0
        self._releasing = True
        try:
            return self._let_go(key, most)
        finally:
            self._releasing = False

    def _let_go(self, key: ServiceKey, most: int) -> int:
        gone = failed = 0
        for waiter in list(islice(self.lines[key], most + _LOOKED_AT)):
            if gone == most or failed == _LOOKED_AT:
                break
            if waiter.try_again():
                self.leave(key, waiter)
                gone += 1
            else:
                failed += 1
        return gone
