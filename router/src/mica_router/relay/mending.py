"""A stream that goes on at another engine: asks its recording how, finds who, and tries until nobody is left.

Owned by the exchange whose stream broke or is relayed, and made only then. A leg of a relayed stream that ended goes on where the
chooser says; should that fail, it is a broken stream like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from mica_router.core.choice import Pick, Relay
from mica_router.core.continuation import Continuation, Ended, NotResumed, Recording, Reply
from mica_router.core.engines import Engine
from mica_router.core.response import ResponseHead
from mica_router.relay.attempt import Attempt
from mica_router.relay.context import RelayContext
from mica_router.relay.delivery import Delivery
from mica_router.relay.search import Search
from mica_runtime.logging import get_logger

_log = get_logger(__name__)


class MendingOwner(Protocol):
    """The exchange."""

    def mending_tries(self, engine: Engine, continuation: Continuation) -> None:
        """Send this to that engine."""

    def mending_ends(self, payload: bytes) -> None:
        """Nothing but these last events was missing."""

    def mending_fails(self, reason: str) -> None:
        """The stream cannot go on; `reason` is that of its end."""


class Mending:
    """One stream, through as many deaths as its recording allows."""

    def __init__(
        self, context: RelayContext, owner: MendingOwner, *, model: str, search: Search, delivery: Delivery, recording: Recording
    ) -> None:
        self._context = context
        self._owner = owner
        self._model = model
        self._search = search
        self._delivery = delivery
        self._recording = recording
        self._continuation: Continuation | None = None
        self._before: Engine | None = None
        self._asking: asyncio.Task[None] | None = None
        self._reason = ""

    def start(self, engine: Engine, reason: str) -> None:
        """`engine` died in the middle of the stream, the first one or one that continued it."""
        self._reason = reason
        self._continuation = self._before = None
        call = partial(self._call, engine)
        self._begin(partial(self._recording.resume, engine, call), to=None)

    def hand_over(self, engine: Engine) -> None:
        """`engine` has made the tokens of its leg, and could make more."""
        self._reason = "relay"
        self._continuation, self._before = None, engine
        found = self._search.choose_to_relay(lambda other: other.takes_over(engine))
        # Nobody has room: then the stream keeps the place that it had.
        onward, leg = (found.pick.engine, found.tokens) if isinstance(found, Relay) else (engine, 0)
        call = partial(self._context.side_calls.call, onward)
        self._begin(partial(self._recording.resume, onward, call, leg=leg), to=onward)

    @property
    def asking(self) -> bool:
        """Whether it is being found out how the stream goes on."""
        return self._asking is not None

    def _begin(self, ask: Callable[[], Awaitable[Continuation | Ended | NotResumed]], *, to: Engine | None) -> None:
        self._asking = asyncio.get_running_loop().create_task(self._ask(ask, to))

    async def _ask(self, ask: Callable[[], Awaitable[Continuation | Ended | NotResumed]], to: Engine | None) -> None:
        try:
            outcome = await ask()
        except Exception:
            _log.exception("resume failed", model=self._model)
            outcome = NotResumed("error")
        self._asking = None
        try:
            self._follow(outcome, to)
        except Exception:
            # Nobody awaits this task, and the client awaits an end.
            _log.exception("resume failed", model=self._model)
            self._give_up("error")

    def _follow(self, outcome: Continuation | Ended | NotResumed, to: Engine | None) -> None:
        if isinstance(outcome, Continuation):
            self._continuation = outcome
            if to is not None and outcome.accepts(to):
                self._try(to, outcome, reason="relay")
            else:
                self._try_next()
        elif isinstance(outcome, Ended):
            self._context.metrics.resumed(self._model)
            self._owner.mending_ends(outcome.body)
        else:
            self._give_up(outcome.reason)

    async def _call(self, dead: Engine, path: str, body: bytes) -> Reply:
        """A small question to an engine that could go on where `dead` stopped."""
        found = self._search.choose_for(dead.continues)
        if not isinstance(found, Pick):
            raise ConnectionError("no engine could go on")
        return await self._context.side_calls.call(found.engine, path, body)

    def _try_next(self) -> None:
        continuation = self._continuation
        found = self._search.choose_for(continuation.accepts) if continuation is not None else None
        if continuation is None:
            self._give_up("no_engine")
        elif isinstance(found, Pick):
            self._try(found.engine, continuation, reason="resume")
        elif self._before is not None and self._search.is_left(self._before):
            # The engine of the last leg is not dead; it may only be full.
            self._try(self._before, continuation, reason="resume")
        else:
            self._give_up("no_engine")

    def _try(self, engine: Engine, continuation: Continuation, *, reason: str) -> None:
        self._context.metrics.decided(self._model, engine.tier, reason)
        self._owner.mending_tries(engine, continuation)

    def answered(self, attempt: Attempt, head: ResponseHead) -> None:
        """An engine answers the continuation: go on with it, or with another one."""
        continuation = self._continuation
        if head.status == 200 and continuation is not None:
            if self._before is None:
                self._context.metrics.resumed(self._model)
            self._delivery.continue_with(head, continuation.translator)
            return
        attempt.end()
        self._context.metrics.upstream_error(self._model, f"status_{head.status}")
        self.failed(attempt.engine)

    def failed(self, engine: Engine) -> None:
        """An engine did not answer the continuation."""
        self._search.failed(engine.endpoint, refused=True)
        self._try_next()

    def _give_up(self, reason: str) -> None:
        self._context.metrics.not_resumed(self._model, reason)
        self._owner.mending_fails(self._reason)

    def cancel(self) -> None:
        """The client is gone."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
