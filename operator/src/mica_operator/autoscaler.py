"""The autoscaler's side of the process: it asks the routers for the demand and keeps one memory per service.

The only writer of replica counts is the reconciler, which asks here what to write; a change of mind wakes the service's loop.
Memories live in the process: after a restart the waits begin anew, so replicas stay longer and never shorter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from mica_api.durations import parse_duration
from mica_api.models.inference_service import AutoscalingSpec
from mica_operator.core.autoscale import Bounds, Demand, Memory, Verdict, after, step
from mica_operator.core.views import Scaling
from mica_runtime.logging import get_logger

_INTERVAL_S: Final = 1.0
_log = get_logger(__name__)

Clock = Callable[[], float]
Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class DemandReport:
    """What routers told. ``complete``: whether all of them did; a service that is missing is then asked for nothing."""

    services: Mapping[Key, tuple[int, int]]
    complete: bool = True

    def of(self, key: Key) -> Demand:
        """Demand of one service: in flight, queued."""
        in_flight, queued = self.services.get(key, (0, 0))
        return Demand(in_flight, queued, self.complete)


class DemandPort(Protocol):
    """Where the demand is read."""

    async def read(self) -> DemandReport | None:
        """None when no router answers."""


@dataclass(slots=True)
class _Track:
    bounds: Bounds
    current: int
    ready: int
    memory: Memory = field(default_factory=Memory)
    verdict: Verdict | None = None
    stale: str = "no router has told it yet"


class Autoscaler:
    """Verdicts per service. ``wake`` is called with a service whose verdict or staleness has changed."""

    def __init__(self, port: DemandPort, *, clock: Clock, wake: Callable[[Key], None]) -> None:
        self._port = port
        self._clock = clock
        self._wake = wake
        self._tracks: dict[Key, _Track] = {}

    def scaling(self, key: Key, spec: AutoscalingSpec | None, *, current: int | None, ready: int) -> Scaling | None:
        """What to write for a service that was looked at. ``current``: replicas of its Deployment, None when there is none."""
        if spec is None:
            self._tracks.pop(key, None)
            return None
        bounds = _bounds(spec)
        track = self._tracks.get(key)
        if track is None:
            start = min(max(current if current is not None else bounds.minimum, bounds.minimum), bounds.maximum)
            track = self._tracks[key] = _Track(bounds=bounds, current=start, ready=ready)
        track.bounds, track.ready = bounds, ready
        track.current = min(max(track.current, bounds.minimum), bounds.maximum)
        return Scaling(track.current, track.verdict.reason if track.verdict is not None else "", track.stale)

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._tracks.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._tracks:
                self.look(await self._port.read())
            await asyncio.sleep(_INTERVAL_S)

    def look(self, report: DemandReport | None) -> None:
        """Decide every service once."""
        now = self._clock()
        for key, track in list(self._tracks.items()):
            asked = None if report is None else report.of(key)
            before, stale = track.current, track.stale
            track.memory, track.verdict = step(
                track.memory, track.bounds, current=track.current, ready=track.ready, demand=asked, now=now
            )
            track.memory = after(track.memory, before=before, verdict=track.verdict)
            track.current = track.verdict.replicas
            track.stale = "no router answers" if asked is None else ""
            if track.current != before:
                _log.info("replicas follow demand", service="/".join(key), replicas=track.current, reason=track.verdict.reason)
            if track.current != before or bool(track.stale) != bool(stale):
                self._wake(key)


def _bounds(spec: AutoscalingSpec) -> Bounds:
    return Bounds(
        minimum=spec.min,
        maximum=spec.max,
        target=spec.target.inflight,
        idle_s=parse_duration(spec.idle_timeout),
        window_s=parse_duration(spec.scale_down_window),
    )
