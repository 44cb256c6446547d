"""Garbage collection that does not stop the process for long: what has been loaded is put out of the collector's sight.

A full collection over 40,000 pods takes 40 ms, again and again, and finds nothing, because records hold no cycles: they go when
the last reference goes. So everything that is alive after the first lists is frozen, and from time to time what has come since;
only rarely is everything looked at, for cycles that were frozen while they were alive.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Final

YOUNG: Final = 20_000
"""Objects that come before the youngest are looked at: a few hundred requests."""
FREEZE_EVERY_S: Final = 60.0
LOOK_AT_ALL_EVERY: Final = 360
"""Freezes between two collections of everything: six hours."""
_LOOK_S: Final = 0.1


async def keep_short(loaded: Callable[[], bool]) -> None:
    """Run until cancelled; ``loaded`` says whether the first lists are complete."""
    gc.set_threshold(YOUNG, 20, 100)
    rounds = 0
    while True:
        if not loaded():
            await asyncio.sleep(_LOOK_S)
            continue
        if rounds % LOOK_AT_ALL_EVERY == 0:
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        rounds += 1
        await asyncio.sleep(FREEZE_EVERY_S)
