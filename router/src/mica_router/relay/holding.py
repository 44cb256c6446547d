"""One request's place in the line of those who wait for an engine: how long it may stand there, and what it is told meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable

from mica_router.core import errors
from mica_router.core.errors import ApiError
from mica_router.core.features import Features
from mica_router.relay.context import RelayContext
from mica_router.relay.delivery import Delivery


class Place:
    """`Waiter` of one exchange, from `join` to `leave`. `look` looks for an engine and says whether the wait is over."""

    def __init__(self, context: RelayContext, features: Features, delivery: Delivery, *, look: Callable[[], bool]) -> None:
        self._context = context
        self._delivery = delivery
        self._look = look
        self._key = features.route.service.key
        self._model = features.route.public_name
        self._limits = features.route.service.routing.queue
        self._beats = features.streams and self._limits.heartbeat > 0
        self.waiting_since = context.clock()
        self._until = self.waiting_since + self._limits.max_wait
        self._next_beat = self.waiting_since + self._limits.heartbeat if self._beats else math.inf

    def join(self, reason: str) -> ApiError | None:
        """To the end of the line, or the error that says why not."""
        context, room = self._context, self._limits.max_requests
        if not room:
            return errors.no_ready_engine(self._model, retry_after=context.retry_after)
        if not context.load.waiting.join(self._key, self, room=room):
            return errors.queue_full(self._model, room, retry_after=context.retry_after)
        context.metrics.held(self._model, reason)
        return None

    def leave(self) -> None:
        """Out of the line."""
        self._context.load.waiting.leave(self._key, self)

    def try_again(self) -> bool:
        """Called by the line."""
        return self._look()

    def check(self, now: float) -> ApiError | None:
        """Tell a stream that it still waits. Returns the error of a wait that was too long."""
        if now >= self._until:
            return errors.queue_timeout(self._model, self._limits.max_wait, retry_after=self._context.retry_after)
        if now >= self._next_beat:
            self._next_beat = now + self._limits.heartbeat
            self._delivery.heartbeat()
        return None
