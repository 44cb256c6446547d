"""Short ways for what happens nearly always: a whole answer in one read, and a read of a stream that is chunks of events.

They do in one step what the long way (`relay.exchange`) does in many, and nothing else: `pass_on` (`hot`) records, times and
writes. As soon as anything is unusual they leave it to the long way, which also says when the short one may be taken again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mica_router.relay.access_log import log_access
from mica_router.relay.ending import Ending

if TYPE_CHECKING:
    from mica_router.core.response import ResponseHead
    from mica_router.relay.attempt import Attempt


_OK: Final = 200


class Steady(Ending):
    """An exchange as long as all goes its way."""

    __slots__ = ()

    def attempt_whole(self, attempt: Attempt, head: ResponseHead, body: bytes) -> bool:
        """Deliver an answer that came whole in one read, and be done with it. False: something about it or around it is not as
        nearly always, and nothing was done.
        """
        context, delivery, handling = self._context, self._delivery, self._handling
        load, metrics = context.load, context.metrics
        if (
            head.status != _OK
            or head.events
            or head.until_eof
            or delivery.opened
            or not delivery.keep_alive
            or context.draining
            or handling.recording is not None
            or handling.translator is not None
            or self._mending is not None
            or self._hedge is not None
            or load.health.watched
        ):
            return False
        self._over = True
        self._client.write(head.passed_on + body)
        metrics.first_byte(self._model, context.clock() - self._started)
        metrics.request_done(self._model, _OK)
        self._tally.in_flight -= 1
        attempt.finish()
        if context.access_log_sample:
            log_access(context, self._features, status=_OK, engine=attempt.engine, started=self._started, begun=self._trace)
        if load.waiting.lines:
            load.waiting.release_one(self._key)
        self._client.exchange_done(keep_alive=True)
        return True

    def _settle(self, attempt: Attempt) -> None:
        """Called when a read of a stream was delivered in full: let the next ones take the short way if they can."""
        reader, series = attempt.reader, self._series
        if reader.complete or not reader.between or series is None or self._mending is not None:
            return
        if not self._heard_at or not self._delivery.passing:
            return
        recording = self._handling.recording
        self.steady(self._context.clock, series.gap, None if recording is None else recording.heard, self._client.outlet())
        attempt.shorten(self.pass_on)
