"""The level-triggered loop of one object: look, decide, act; again when something happened, or after a while.

What happened is never passed along: a wake-up only says that looking is worth it. Failures of one object delay that object alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from mica_operator.metrics import Metrics
from mica_runtime.kube import KubeError
from mica_runtime.logging import get_logger
from mica_runtime.waiting import woken

_log = get_logger(__name__)
_BACKOFF_S: Final = 0.2
_BACKOFF_MAX_S: Final = 60.0
_SPACING_S: Final = 0.1
_STUCK_S: Final = 120.0
_UNSETTLED_S: Final = 5.0
"""Until the next look at an object that is on its way: watches tell sooner, but a watch can be late or break."""

Step = Callable[[], Awaitable[bool]]
"""One look at one object. Answers whether it is settled: nothing is expected to happen to it. Raises KubeError."""


@dataclass(slots=True)
class Wakeups:
    """One event per running loop. Waking an object without one does nothing: a loop begins with a look."""

    _events: dict[Hashable, asyncio.Event] = field(default_factory=dict)

    def listen(self, key: Hashable) -> asyncio.Event:
        """The event of a loop that begins; it takes the place of one that is ending."""
        event = self._events[key] = asyncio.Event()
        return event

    def wake(self, key: Hashable) -> None:
        """Look at one object again."""
        event = self._events.get(key)
        if event is not None:
            event.set()

    def forget(self, key: Hashable, event: asyncio.Event) -> None:
        """The loop of ``event`` has ended; a namesake's that began meanwhile is left alone."""
        if self._events.get(key) is event:
            del self._events[key]


class Pulse:
    """Which steps are running, and since when: a step that never ends is what a liveness probe can find out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: dict[Hashable, float] = {}

    def begin(self, key: Hashable) -> None:
        """A step has started."""
        self._running[key] = self._clock()

    def end(self, key: Hashable) -> None:
        """It has ended."""
        self._running.pop(key, None)

    def alive(self) -> bool:
        """Whether no step runs longer than any deadline in it allows."""
        now = self._clock()
        return all(now - since < _STUCK_S for since in self._running.values())


@dataclass(frozen=True, slots=True)
class Loop:
    """Runs the loops of all objects of the process."""

    wakeups: Wakeups
    pulse: Pulse
    metrics: Metrics
    resync_s: float

    async def run(self, key: tuple[str, str], step: Step) -> None:
        """Until cancelled, when the object is gone or the process ends. ``key`` is (kind, name)."""
        wake = self.wakeups.listen(key)
        failures = 0
        try:
            while True:
                wake.clear()
                within = await self._attempt(key, step)
                if within is not None:
                    failures = 0
                    await asyncio.sleep(_SPACING_S)
                    await woken(wake, within=min(within, self.resync_s) * random.uniform(0.8, 1.2))
                else:
                    await asyncio.sleep(min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** min(failures, 20)) * random.uniform(0.8, 1.2))
                    failures += 1
        finally:
            self.wakeups.forget(key, wake)

    async def _attempt(self, key: tuple[str, str], step: Step) -> float | None:
        """Seconds until the next look at the latest; None after a failure."""
        kind, name = key
        self.pulse.begin(key)
        try:
            with self.metrics.seconds.labels(kind).time():
                settled = await step()
        except KubeError as error:
            self.metrics.reconciles.labels(kind, "api_error").inc()
            _log.warning("reconciliation failed, will be repeated", kind=kind, object=name, error=str(error))
            return None
        except Exception:
            # The loop of one object must outlive a bug that its content brings to light.
            self.metrics.reconciles.labels(kind, "bug").inc()
            _log.exception("reconciliation failed, will be repeated", kind=kind, object=name)
            return None
        finally:
            self.pulse.end(key)
        self.metrics.reconciles.labels(kind, "done").inc()
        return self.resync_s if settled else _UNSETTLED_S


class LoopSet:
    """One running loop per object that exists. Objects need no finalizer for this: what they own is deleted with them."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def look(self, key: tuple[str, str], step: Step) -> None:
        """The object exists and something about it has changed: its loop begins, or looks again."""
        if key in self._tasks:
            self._loop.wakeups.wake(key)
        else:
            self._tasks[key] = asyncio.get_running_loop().create_task(self._loop.run(key, step))

    def end(self, key: tuple[str, str]) -> None:
        """The object is gone."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def run(self) -> None:
        """Until cancelled, then end every loop."""
        try:
            await asyncio.Event().wait()
        finally:
            tasks = list(self._tasks.values())
            self._tasks.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
