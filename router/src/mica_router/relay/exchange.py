"""One request on its way: find an engine or wait for one, send, deliver the answer, and put right what can be put right.

Before the first byte a failure costs a retry elsewhere. After it, a recorded stream goes on at another engine, any other stream
ends with an error event, and an answer that cannot say so is cut, so that half of it never looks like the whole.
"""

from __future__ import annotations

import math
from typing import Final

from mica_router.core import errors
from mica_router.core.choice import Hold, Pick, Relay
from mica_router.core.continuation import (
    PLAIN,
    SWITCHED_OFF,
    Continuation,
    LegEnded,
    LegRefused,
    Recording,
    TooLong,
    TranslationFailed,
)
from mica_router.core.engines import Engine
from mica_router.core.errors import ApiError
from mica_router.core.headers import host_line, render_request_opening, with_length
from mica_router.core.response import ResponseHead
from mica_router.relay.attempt import Attempt, Parcel
from mica_router.relay.ending import CLIENT_GONE
from mica_router.relay.holding import Place
from mica_router.relay.mending import Mending
from mica_router.relay.search import SERVER_ERRORS, Found, choose_first, with_room
from mica_router.relay.steady import Steady
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
# What a named tuple's own constructor comes to, at half of its cost.
_new: Final = tuple.__new__
_TOO_MANY: Final = 429


class Exchange(Steady):
    """Owned by the client connection: `start` once, then `pause`, `resume`, `check`, `cancel` from there."""

    __slots__ = ()

    def start(self) -> None:
        """Look for an engine."""
        self._tally.queued += 1
        self._seek()

    # Finding an engine.

    def _seek(self) -> None:
        if self._key in self._context.load.waiting.lines:
            self._hold(Hold("queue"))
            return
        context, features = self._context, self._features
        found = choose_first(context, features)
        if isinstance(found, Pick) and not found.engine.max_in_flight:
            self._go(found)
        else:
            self._follow(with_room(context.load, found, lambda: choose_first(context, features)))

    def _follow(self, found: Found) -> None:
        """Where it goes to an engine that is bounded, its place is taken (`with_room`)."""
        if isinstance(found, Pick):
            self._go(found)
        elif isinstance(found, Hold):
            self._hold(found)
        elif isinstance(found, Relay):
            # HTTP/1.0 has no chunks in which another engine's events could follow.
            self._go(found.pick, leg=0 if self._request.http10 else found.tokens)
        else:
            self._fail(found.error)

    def _hold(self, hold: Hold) -> None:
        place = Place(self._context, self._features, self._delivery, look=self._look_again)
        error = place.join(hold.reason)
        if error is not None:
            self._fail(error)
        else:
            self._place = place

    def _look_again(self) -> bool:
        """Called by the line this waits in. False: there still is no engine."""
        try:
            found = with_room(self._context.load, self._search.choose(), self._search.choose)
            if isinstance(found, Hold):
                return False
            self._stop_waiting()
            self._follow(found)
        except Exception:
            _log.exception("a held request could not go on", model=self._model)
            self.crash()
        return True

    # Trying one.

    def _go(self, pick: Pick, leg: int = 0) -> None:
        """`leg`: the first tokens, which are all that this engine is asked for; 0: the whole answer."""
        context, features, engine = self._context, self._features, pick.engine
        self._taken = engine.endpoint if engine.max_in_flight else None
        metrics = context.metrics
        metrics.decided(self._model, engine.tier, pick.reason)
        self._series = metrics.series(self._model, engine.tier)
        if self._handling is not PLAIN:
            self._handling.close()
        if leg:
            handling = context.book.open_leg(features, engine, tokens=leg)
        elif not features.streams or features.route.service.routing.resume:
            handling = context.book.open(features, engine)
        else:
            handling = SWITCHED_OFF
        self._handling = handling
        target, body = handling.target, handling.body
        self._attempt = attempt = self._make(
            engine,
            target=features.target if target is None else target,
            body=features.body if body is None else body,
        )
        attempt.start()

    def _make(self, engine: Engine, *, target: bytes, body: bytes) -> Attempt:
        lane, http10 = self._lane, self._request.http10
        if lane.framed and target is lane.target and not http10:
            host = host_line(engine.endpoint)
            head = b"%b%b%b%bContent-Length: %d\r\n\r\n" % (lane.start, host, lane.lines, self._trace, len(body))
        else:
            forwarded, authority = lane.lines + self._trace, engine.endpoint.authority
            begun = render_request_opening(
                method=lane.method, target=target, authority=authority, forwarded=forwarded, http10=http10
            )
            head = with_length(begun, len(body), always=lane.framed)
        parcel = _new(Parcel, (head, body, lane.method == b"HEAD"))
        taken, self._taken = self._taken, None
        return Attempt(self._context, self, engine, parcel=parcel, deadlines=self._deadlines, placed=taken is not None)

    def attempt_sent(self, attempt: Attempt) -> None:
        """The engine has the request."""
        if self._stalled:
            attempt.pause()
        if self._in_engine:
            return
        self._in_engine = True
        self._tally.queued -= 1
        self._tally.in_flight += 1
        if self._series is not None:
            self._series.queue.observe(attempt.sent - self._started)

    def attempt_reconnects(self, attempt: Attempt) -> None:
        """Engines close idle connections at any time."""
        self._context.metrics.retried(self._model, "stale_connection")

    # What an engine says.

    def attempt_answered(self, attempt: Attempt, head: ResponseHead) -> None:
        """Take this answer, or look for a better one."""
        context, endpoint = self._context, attempt.engine.endpoint
        if self._request.http10 and head.chunked:
            self._fail(errors.engine_protocol_error(self._model))
            return
        if self._mending is not None:
            self._mending.answered(attempt, head)
            return
        if head.status in SERVER_ERRORS:
            context.load.health.fault(endpoint, "status", mark=self._mark())
        elif context.load.health.watched:
            context.load.health.sound(endpoint)
            if self._searching is not None and self._search.tried:
                context.load.health.answered_elsewhere(self._search.tried, mark=self._mark())
        if self._hedge is not None and head.status >= 500:
            attempt.end()
            self._drop(attempt)
            return
        if head.status >= _TOO_MANY and self._search.prefers_another(head.status):
            attempt.end()
            context.metrics.upstream_error(self._model, f"status_{head.status}")
            self._search.failed(endpoint, refused=False)
            self._try_elsewhere(attempt, f"status_{head.status}", refused=True)
            return
        self._accept(attempt, head)

    def _accept(self, attempt: Attempt, head: ResponseHead) -> None:
        if self._hedge is not None:
            self._keep_only(attempt)
        self._status = head.status
        if self._handling.translator is None:
            self._forget_body()
        elif head.status == 400 and self._handling.recording is not None:
            self._ask_for_all(attempt)
            return
        self._context.metrics.first_byte(self._model, self._context.clock() - self._started)
        self._delivery.keep_alive &= not self._context.draining
        self._delivery.accept(head, self._handling.translator)

    def _ask_for_all(self, attempt: Attempt) -> None:
        """The engine will not make a first leg: it may be asked for more tokens than its context has left, or tell no ids."""
        engine = attempt.engine
        if engine.max_in_flight:
            # Before the place that it had is given back, so that nobody takes it.
            self._context.load.occupy(engine.endpoint)
        attempt.end()
        self._go(Pick(engine, "relay_refused"))

    def _mark(self) -> int:
        """The same for requests of the same bytes, as a client's retries are. 0 once the bytes are forgotten."""
        features = self._features
        return hash((features.target, features.body)) if features.body else 0

    def _forget_body(self) -> None:
        """It will not be sent again."""
        self._features = self._features.without_body()
        if self._searching is not None:
            self._searching.forget_body(self._features)
        self._client.exchange_answered()

    def _keep_only(self, attempt: Attempt) -> None:
        """Of two hedged attempts, this one is used."""
        other = self._hedge if attempt is self._attempt else self._attempt
        self._attempt, self._hedge = attempt, None
        if other is not None and other is not attempt:
            other.end()

    def attempt_said(self, attempt: Attempt, data: bytes) -> None:
        """Deliver body bytes."""
        delivery, series = self._delivery, self._series
        if delivery.events and data and series is not None:
            now = self._context.clock()
            if self._heard_at:
                series.gap.observe(now - self._heard_at)
            else:
                series.first_token.observe(now - self._started)
            self._heard_at = now
        recording = self._handling.recording
        if recording is not None and self._mending is None and recording.heard(data):
            attempt.end()
            self._context.metrics.upstream_error(self._model, "gave_up")
            self._broken(attempt, "gave_up")
            return
        try:
            delivery.feed(data, attempt.reader)
        except TranslationFailed as error:
            self._untranslatable(attempt, error)
            return
        if delivery.events:
            self._settle(attempt)

    def attempt_ended(self, attempt: Attempt) -> None:
        """The answer is whole."""
        try:
            self._delivery.finish(attempt.reader)
        except TranslationFailed as error:
            self._untranslatable(attempt, error)
            return
        self._done(self._status)
        self._client.exchange_done(keep_alive=self._delivery.keep_alive)

    def _untranslatable(self, attempt: Attempt, error: TranslationFailed) -> None:
        if isinstance(error, LegEnded):
            self._hand_over(attempt)
            return
        if isinstance(error, LegRefused):
            self._ask_for_all(attempt)
            return
        _log.warning("answer cannot be translated", model=self._model, error=str(error))
        attempt.end()
        reason = "too_long" if isinstance(error, TooLong) else "protocol"
        self._context.metrics.upstream_error(self._model, reason)
        if isinstance(error, TooLong) and not self._delivery.opened:
            self._fail(self._too_long(error))
        else:
            self._broken(attempt, reason)

    def _too_long(self, error: TooLong) -> ApiError:
        if error.together:
            return errors.overloaded(error.limit, retry_after=self._context.retry_after, close=False)
        return errors.answer_too_long(self._model, error.limit)

    # What goes wrong.

    def attempt_failed(self, attempt: Attempt, reason: str) -> None:
        """Retry before the answer has begun, mend or end it after."""
        context = self._context
        if reason == "idle_timeout" and self._stalled:
            reason = "client_stalled"
        elif reason != "exhausted":
            context.load.health.fault(attempt.engine.endpoint, reason, mark=self._mark())
        context.metrics.upstream_error(self._model, reason)
        if self._hedge is not None:
            self._drop(attempt)
        elif self._mending is not None and not attempt.answered:
            self._mending.failed(attempt.engine)
        elif attempt.answered:
            self._broken(attempt, reason)
        else:
            self._failed_unanswered(attempt, reason)

    def _drop(self, attempt: Attempt) -> None:
        """One of two hedged attempts failed; the other goes on."""
        self._attempt = self._hedge if attempt is self._attempt else self._attempt
        self._hedge = None
        self._search.failed(attempt.engine.endpoint, refused=False)

    def _failed_unanswered(self, attempt: Attempt, reason: str) -> None:
        refused = reason in ("connect", "exhausted")
        if refused or self._lane.repeatable:
            self._try_elsewhere(attempt, reason, refused=refused)
        else:
            self._fail(self._no_answer(reason))

    def _try_elsewhere(self, attempt: Attempt, reason: str, *, refused: bool) -> None:
        search = self._search
        search.failed(attempt.engine.endpoint, refused=refused)
        self._attempt = None
        if search.others and (refused or search.may_repeat()):
            self._context.metrics.retried(self._model, reason)
            self._follow(with_room(self._context.load, search.choose(), search.choose))
        else:
            self._fail(self._no_answer(reason))

    def _broken(self, attempt: Attempt, reason: str) -> None:
        _log.warning("answer broken off", model=self._model, engine=attempt.engine.endpoint.authority, reason=reason)
        recording = self._handling.recording
        if self._handling.translator is not None and not self._delivery.opened and self._lane.repeatable:
            self._try_elsewhere(attempt, reason, refused=False)
            return
        self._search.failed(attempt.engine.endpoint, refused=True)
        self._attempt = None
        if reason == "client_stalled":
            self._cut(reason)
        elif recording is None or not self._delivery.can_tell():
            self._context.metrics.not_resumed(self._model, self._handling.reason if recording is None else "not_whole")
            self._end_broken(reason)
        else:
            self._mend(recording).start(attempt.engine, reason)

    def _hand_over(self, attempt: Attempt) -> None:
        """The tokens of a leg are made, and another engine may make the next."""
        attempt.end()
        self._attempt = None
        recording = self._handling.recording
        if recording is None or not self._delivery.can_tell():
            self._end_broken("relay")
            return
        if self._mending is None:
            self._forget_body()
        self._mend(recording).hand_over(attempt.engine)

    def _mend(self, recording: Recording) -> Mending:
        if self._mending is None:
            self._mending = Mending(
                self._context, self, model=self._model, search=self._search, delivery=self._delivery, recording=recording
            )
        return self._mending

    # What mending asks for.

    def mending_tries(self, engine: Engine, continuation: Continuation) -> None:
        """Send a continuation."""
        self._series = self._context.metrics.series(self._model, engine.tier)
        self._attempt = self._make(engine, target=continuation.target, body=continuation.body)
        self._attempt.start()

    def mending_ends(self, payload: bytes) -> None:
        """Only the end was missing."""
        self._delivery.end_with(payload)
        self._done(self._status)
        self._client.exchange_done(keep_alive=self._delivery.keep_alive)

    def mending_fails(self, reason: str) -> None:
        """The stream ends here."""
        self._end_broken(reason)

    # Called by the client's connection.

    def pause(self) -> None:
        """The client does not keep up."""
        self._stalled = True
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        """The client reads again."""
        self._stalled = False
        if self._attempt is not None:
            self._attempt.resume()

    def cancel(self) -> None:
        """The client is gone: the engine must notice."""
        self._done(CLIENT_GONE)

    def check(self, now: float) -> None:
        """Act on deadlines that have passed at `now`."""
        if now >= self._total:
            self._total = math.inf
            self._out_of_time()
        elif self._place is not None:
            error = self._place.check(now)
            if error is not None:
                self._fail(error)
        elif self._attempt is not None:
            self._attempt.check(now, heard=self._heard_at)
            self._check_engine(now)
        if self._nobody_works():
            _log.error("a request was left alone", model=self._model)
            self.crash()

    def _nobody_works(self) -> bool:
        """Whether nothing will ever happen to this request again: something failed on the way from one state to the next."""
        if self._over or self._place is not None or (self._mending is not None and self._mending.asking):
            return False
        return all(attempt is None or attempt.over for attempt in (self._attempt, self._hedge))

    def _check_engine(self, now: float) -> None:
        """While an engine is silent: leave one that was ejected meanwhile, or ask a second one."""
        attempt, hedge = self._attempt, self._hedge
        if attempt is None or attempt.answered or self._mending is not None or not self._lane.repeatable:
            return
        if hedge is not None:
            hedge.check(now)
            return
        health = self._context.load.health
        if health.ejected_since(attempt.engine.endpoint, attempt.started) and self._search.prefers_another(503):
            attempt.end()
            self._try_elsewhere(attempt, "ejected", refused=False)
            return
        after = self._features.route.service.routing.hedge_after
        if after and not self._features.streams and now >= attempt.started + after:
            self._start_hedge(attempt)

    def _start_hedge(self, attempt: Attempt) -> None:
        found = self._search.choose_for(lambda engine: engine.endpoint != attempt.engine.endpoint)
        if isinstance(found, Pick) and self._handling.plain and self._context.book.open(self._features, found.engine).plain:
            self._context.metrics.decided(self._model, found.engine.tier, "hedge")
            self._hedge = self._make(found.engine, target=self._features.target, body=self._features.body)
            self._hedge.start()
