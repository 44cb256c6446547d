"""One request: what is known of it while it is on its way, and every way in which it ends.

Not here: how it goes from one state to the next (`relay.exchange`).
"""

from __future__ import annotations

from mica_router.core import errors
from mica_router.core.continuation import PLAIN, Handling
from mica_router.core.engines import Endpoint
from mica_router.core.errors import ApiError
from mica_router.core.features import Features
from mica_router.core.outgoing import MESSAGES, trace_line
from mica_router.core.request import Request
from mica_router.hot import Passing
from mica_router.metrics import Series
from mica_router.relay.access_log import log_access
from mica_router.relay.attempt import Attempt
from mica_router.relay.context import RelayContext
from mica_router.relay.delivery import Delivery, ResponseSink
from mica_router.relay.holding import Place
from mica_router.relay.lane import lane_of
from mica_router.relay.mending import Mending
from mica_router.relay.search import Search
from mica_runtime.logging import get_logger

CLIENT_GONE = 499
CUT = 599
_log = get_logger(__name__)


class Ending(Passing):
    """State of an exchange. Every way out passes `_done` once."""

    __slots__ = (
        "_attempt",
        "_client",
        "_context",
        "_deadlines",
        "_delivery",
        "_features",
        "_handling",
        "_hedge",
        "_in_engine",
        "_key",
        "_lane",
        "_mending",
        "_model",
        "_over",
        "_place",
        "_request",
        "_searching",
        "_series",
        "_stalled",
        "_started",
        "_status",
        "_taken",
        "_tally",
        "_total",
        "_trace",
    )

    def __init__(self, context: RelayContext, client: ResponseSink, *, request: Request, features: Features) -> None:
        lane = lane_of(context, request, features)
        self._context = context
        self._client = client
        self._request = request
        self._features = features
        self._lane = lane
        self._key = lane.key
        self._tally = context.load.tally(lane.key)
        self._model = lane.model
        self._searching: Search | None = None
        self._trace = trace_line() if lane.untraced else b""
        self._deadlines = lane.deadlines
        self._delivery = Delivery(client, request, keep_alive=not context.draining, named_errors=features.path == MESSAGES)
        self._handling: Handling = PLAIN
        self._mending: Mending | None = None
        self._attempt: Attempt | None = None
        self._hedge: Attempt | None = None
        self._series: Series | None = None
        self._status = 0
        self._taken: Endpoint | None = None
        self._stalled = False
        self._in_engine = False
        self._heard_at = 0.0
        self._place: Place | None = None
        self._started = context.clock()
        self._over = False
        self._total = self._started + lane.total

    @property
    def _search(self) -> Search:
        """Made when the first engine was not the last: most requests need none."""
        if self._searching is None:
            self._searching = Search(self._context, self._features)
        return self._searching

    def stop(self) -> bool:
        """The router ends: tell the client, if it has no answer yet or a stream that can be told. False: it cannot."""
        if self._delivery.opened and not self._delivery.can_tell():
            return False
        self._delivery.keep_alive = False
        self._fail(errors.router_ends())
        return True

    def _out_of_time(self) -> None:
        self._tell_or_cut(
            errors.total_timeout(self._model, self._features.route.service.routing.deadlines.total), "total_timeout"
        )

    def crash(self) -> None:
        """Something here failed that must not: the client is told, and everything is given back."""
        if not self._over:
            self._tell_or_cut(errors.internal_error(), "internal")

    def _tell_or_cut(self, error: ApiError, reason: str) -> None:
        if not self._delivery.opened or self._delivery.can_tell():
            self._fail(error)
        else:
            self._cut(reason)

    def _fail(self, error: ApiError) -> None:
        if self._delivery.opened:
            self._delivery.tell(error)
            self._done(error.status)
            self._client.exchange_done(keep_alive=self._delivery.keep_alive)
        else:
            self._done(error.status)
            self._client.exchange_failed(error)

    def _end_broken(self, reason: str) -> None:
        if not self._delivery.opened:
            self._fail(errors.engine_protocol_error(self._model))
        elif self._delivery.can_tell():
            self._fail(errors.engine_lost(self._model, reason))
        else:
            self._cut(reason)

    def _cut(self, reason: str) -> None:
        _log.warning("response cut", model=self._model, reason=reason)
        self._done(CUT)
        self._client.exchange_broken()

    def _done(self, status: int) -> None:
        if self._over:
            return
        self._over = True
        context, attempt = self._context, self._attempt
        context.metrics.request_done(self._model, status)
        self._stop_waiting()
        if self._mending is not None:
            self._mending.cancel()
        if attempt is not None:
            attempt.end()
        if self._hedge is not None:
            self._hedge.end()
        if self._taken is not None:
            context.load.vacate(self._taken)
        self._handling.close()
        if self._in_engine:
            self._tally.in_flight -= 1
        else:
            self._tally.queued -= 1
        engine = attempt.engine if attempt else None
        log_access(context, self._features, status=status, engine=engine, started=self._started, begun=self._trace)
        if context.load.waiting.lines:
            context.load.waiting.release_one(self._key)

    def _stop_waiting(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.leave()

    def _no_answer(self, reason: str) -> ApiError:
        if reason == "first_byte_timeout":
            return errors.engine_timeout(self._model, self._deadlines.first_byte)
        if reason == "protocol":
            return errors.engine_protocol_error(self._model)
        if reason == "transfer_coding":
            return errors.engine_transfer_coding(self._model)
        return errors.engine_unreachable(self._model, retry_after=self._context.retry_after)
