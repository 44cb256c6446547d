"""The steady state of a stream: reads that are one chunk of whole events go from the engine to the client in one step.

That is nearly every read of nearly every stream, so `pass_on` does nothing but what such a read needs: it is recorded, timed and
written. Everything else is left to the long way (`Attempt.upstream_data`), which also says when this one may be taken again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

from mica_router.core.chunks import LONGEST, OPENINGS
from mica_router.core.events import EVENT_END
from mica_router.metrics import GAP_BUCKETS, Histogram
from mica_router.relay.ending import Ending

if TYPE_CHECKING:
    from mica_router.ports import Clock
    from mica_router.relay.attempt import Attempt


class Steady(Ending):
    """An exchange as long as its stream goes its way."""

    __slots__ = ("_clock", "_gaps", "_hear", "_write")

    _clock: Clock
    _gaps: Histogram
    _hear: Callable[[bytes], bool] | None
    _write: Callable[[bytes], None]

    def _settle(self, attempt: Attempt) -> None:
        """Called when a read of a stream was delivered in full: let the next ones take the short way if they can."""
        series = self._series
        if series is None or self._mending is not None or not self._heard_at or not self._delivery.passing:
            return
        if not attempt.reader.between or attempt.reader.complete:
            return
        recording = self._handling.recording
        self._clock = self._context.clock
        self._gaps = series.gap
        self._hear = None if recording is None else recording.heard
        self._write = self._client.writer()
        attempt.shorten(self.pass_on)

    def pass_on(self, data: bytes) -> bool:
        """Pass on one chunk of whole events. False: it is something else, or an engine that gives up; nothing was done with it.

        The engine's deadline needs nothing here: it is checked against `_heard_at`.
        """
        size = len(data)
        if size >= LONGEST or not data.startswith(OPENINGS[size]) or not data.endswith(EVENT_END):
            return False
        hear = self._hear
        if hear is not None and hear(data):
            return False
        now = self._clock()
        gap = now - self._heard_at
        self._heard_at = now
        gaps = self._gaps
        gaps.buckets[bisect_left(GAP_BUCKETS, gap)] += 1
        gaps.total += gap
        self._write(data)
        return True
