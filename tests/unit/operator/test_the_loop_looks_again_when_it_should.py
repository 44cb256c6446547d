from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry

from mica_operator.loop import Loop, Pulse, Wakeups
from mica_operator.metrics import Metrics
from mica_runtime.kube import Unreachable

KEY = ("InferenceService", "ml/tiny")


# Time jumps instead of passing.
pytestmark = pytest.mark.looptime


class Steps:
    """A step that records when it ran and fails as told."""

    def __init__(self, *outcomes: Exception | None, settled: bool = True) -> None:
        self.times: list[float] = []
        self._outcomes = list(outcomes)
        self._settled = settled

    async def __call__(self) -> bool:
        self.times.append(asyncio.get_running_loop().time())
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None:
            raise outcome
        return self._settled


def _loop(resync: float = 300.0) -> tuple[Loop, CollectorRegistry]:
    registry = CollectorRegistry()
    clock = asyncio.get_running_loop().time
    return Loop(Wakeups(), Pulse(clock), Metrics(registry), resync_s=resync), registry


@asynccontextmanager
async def _running(loop: Loop, steps: Steps) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run(KEY, steps))
    try:
        await asyncio.sleep(0.01)
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_wake_up_is_answered_and_idleness_is_not() -> None:
    loop, _ = _loop()
    steps = Steps()
    async with _running(loop, steps):
        await asyncio.sleep(100)
        assert len(steps.times) == 1
        loop.wakeups.wake(KEY)
        await asyncio.sleep(0.2)
        assert len(steps.times) == 2


async def test_a_storm_of_wake_ups_is_one_look() -> None:
    loop, _ = _loop()
    steps = Steps()
    async with _running(loop, steps):
        for _ in range(100):
            loop.wakeups.wake(KEY)
        await asyncio.sleep(5)
        assert len(steps.times) == 2


async def test_everything_is_looked_at_again_after_a_while() -> None:
    loop, _ = _loop(resync=10)
    steps = Steps()
    async with _running(loop, steps):
        await asyncio.sleep(25)
    assert len(steps.times) in (3, 4)


async def test_what_is_on_its_way_is_looked_at_again_soon_though_nobody_tells() -> None:
    loop, _ = _loop()
    steps = Steps(settled=False)
    async with _running(loop, steps):
        await asyncio.sleep(30)
    assert 5 <= len(steps.times) <= 8


async def test_failures_are_repeated_with_growing_pauses_and_wake_ups_do_not_shorten_them() -> None:
    loop, registry = _loop()
    steps = Steps(*[Unreachable("down")] * 4, None)
    async with _running(loop, steps):
        for _ in range(100):
            loop.wakeups.wake(KEY)
            await asyncio.sleep(0.1)
    pauses = [round(b - a, 2) for a, b in zip(steps.times[:5], steps.times[1:5], strict=False)]
    assert all(
        low <= pause <= high
        for pause, (low, high) in zip(pauses, [(0.16, 0.25), (0.32, 0.49), (0.64, 0.97), (1.2, 1.95)], strict=True)
    )
    labels = {"kind": "InferenceService", "outcome": "api_error"}
    assert registry.get_sample_value("mica_operator_reconciles_total", labels) == 4


async def test_a_bug_in_one_object_delays_that_object_only() -> None:
    loop, registry = _loop()
    steps = Steps(ZeroDivisionError("bug"), None)
    async with _running(loop, steps):
        await asyncio.sleep(1)
    assert len(steps.times) == 2
    assert registry.get_sample_value("mica_operator_reconciles_total", {"kind": "InferenceService", "outcome": "bug"}) == 1


async def test_what_happens_during_a_look_is_looked_at_again() -> None:
    loop, _ = _loop()
    seen: list[int] = []

    async def step() -> None:
        seen.append(len(seen))
        if len(seen) == 1:
            loop.wakeups.wake(KEY)

    task = asyncio.create_task(loop.run(KEY, step))
    await asyncio.sleep(1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert len(seen) == 2


@pytest.mark.parametrize("turns", range(5))
async def test_a_loop_that_is_woken_and_cancelled_at_once_ends(turns: int) -> None:
    loop, _ = _loop()
    task = asyncio.create_task(loop.run(KEY, Steps()))
    await asyncio.sleep(1)
    loop.wakeups.wake(KEY)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)
    assert task in done
    assert task.cancelled()


async def test_the_end_of_a_loop_leaves_a_namesakes_alone() -> None:
    loop, _ = _loop()
    steps = Steps()
    old = asyncio.create_task(loop.run(KEY, Steps()))
    await asyncio.sleep(1)
    async with _running(loop, steps):
        old.cancel()
        await asyncio.wait([old])
        loop.wakeups.wake(KEY)
        await asyncio.sleep(1)
    assert len(steps.times) == 2


async def test_news_of_objects_without_a_loop_leave_nothing_behind() -> None:
    loop, _ = _loop()
    async with _running(loop, Steps()):
        for number in range(10):
            loop.wakeups.wake(("InferenceService", f"ml/{number}"))
        assert set(loop.wakeups._events) == {KEY}
    assert loop.wakeups._events == {}


def test_a_step_that_never_ends_is_noticed() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.begin(KEY)
    now[0] = 119
    assert pulse.alive()
    now[0] = 121
    assert not pulse.alive()
    pulse.end(KEY)
    assert pulse.alive()
