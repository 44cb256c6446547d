"""The garbage collector waits for the first lists, and then no longer looks at what they brought."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from mica_extender.collection import YOUNG, keep_short


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The collector as it was, afterwards."""
    before = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def run_a_little(loaded: bool) -> None:
    running = asyncio.create_task(keep_short(lambda: loaded))
    for _ in range(3):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_nothing_is_frozen_before_the_lists_are_complete() -> None:
    await run_a_little(False)
    assert gc.get_threshold()[0] == YOUNG
    assert gc.get_freeze_count() == 0


async def test_what_is_alive_when_the_lists_are_complete_is_frozen() -> None:
    alive = len(gc.get_objects())
    await run_a_little(True)
    assert gc.get_freeze_count() > alive // 2
