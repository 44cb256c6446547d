"""The search of one request for an engine: what it tried, what is left, and whether it may be tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mica_router.core import errors
from mica_router.core.choice import Hold, Pick, Refusal, Relay
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.features import Features
from mica_router.core.routes import Service
from mica_router.core.target import is_repeatable
from mica_router.relay.context import RelayContext
from mica_router.relay.load import Load

Found = Pick | Relay | Hold | Refusal
_TRIES: Final = 4
_CROWDED: Final = Hold("saturated")
# The engine says that it did not take the request.
_NOT_TAKEN: Final = frozenset({429, 503})
_SERVER_ERRORS: Final = frozenset({500, 502, 504})
# What an engine answers that is in trouble. 501 is not among them: the engine does not do what was asked for.
SERVER_ERRORS: Final = _SERVER_ERRORS | {503}


def choose_first(context: RelayContext, features: Features) -> Found:
    """Ask the chooser for any engine of the service as the table knows it now."""
    route = context.table.by_key.get(features.route.service.key)
    if route is None:
        return Refusal("gone", errors.no_ready_engine(features.route.public_name, retry_after=context.retry_after))
    return context.chooser.choose(features, candidates=route.service.engines, load=context.load)


def with_room(load: Load, found: Found, choose: Callable[[], Found]) -> Found:
    """What was found, with a place taken at its engine if that engine has so many and no more (`max_in_flight`).

    Where other workers were quicker, `choose` looks again: it sees their requests now, and another engine may have room.
    """
    for _ in range(_TRIES):
        pick = found.pick if isinstance(found, Relay) else found
        if not isinstance(pick, Pick) or not pick.engine.max_in_flight or load.take(pick.engine):
            return found
        found = choose()
    return _CROWDED


class Search:
    """`retries` bounds how often a request is sent again; a connection that is refused costs nothing and counts for nothing."""

    def __init__(self, context: RelayContext, features: Features) -> None:
        self._context = context
        self._features = features
        self.tried: frozenset[Endpoint] = frozenset()
        self._failures = 0
        self._retries = features.route.service.routing.retries
        self.repeatable = is_repeatable(features.method, features.path)

    def choose(self) -> Found:
        """Ask the chooser for one of those that were not tried."""
        context, features = self._context, self._features
        if not self.tried:
            return choose_first(context, features)
        service = self._service()
        candidates = self._candidates(service)
        model = features.route.public_name
        if service is None:
            return Refusal("gone", errors.no_ready_engine(model, retry_after=context.retry_after))
        if not candidates:
            return Refusal("unreachable", errors.engine_unreachable(model, retry_after=context.retry_after))
        return context.chooser.choose(features, candidates=candidates, load=context.load)

    def choose_for(self, accepts: Callable[[Engine], bool]) -> Pick | Hold | Refusal | None:
        """The same among engines that may go on with a broken stream; None when there is none."""
        candidates = [engine for engine in self._candidates(self._service()) if accepts(engine)]
        if not candidates:
            return None
        return self._context.chooser.choose_to_resume(self._features, candidates=candidates, load=self._context.load)

    def choose_to_relay(self, accepts: Callable[[Engine], bool]) -> Relay | Hold | Refusal | None:
        """Who takes the next leg of a stream, among engines that may; None when there is none."""
        candidates = [engine for engine in self._candidates(self._service()) if accepts(engine)]
        if not candidates:
            return None
        return self._context.chooser.choose_to_relay(self._features, candidates=candidates, load=self._context.load)

    def forget_body(self, features: Features) -> None:
        """The request will not be sent again, and its body may be long: here it is without. What it asked for is decided."""
        self._features = features

    def _service(self) -> Service | None:
        route = self._context.table.current(self._features.route)
        return route.service if route is not None else None

    def _candidates(self, service: Service | None) -> Sequence[Engine]:
        if service is None:
            return ()
        if not self.tried:
            return service.engines
        return [engine for engine in service.engines if engine.endpoint not in self.tried]

    def failed(self, endpoint: Endpoint, *, refused: bool) -> None:
        """It was tried there. `refused`: no connection could be made, so nothing was sent."""
        self.tried |= {endpoint}
        if not refused:
            self._failures += 1

    def is_left(self, engine: Engine) -> bool:
        """Whether it is still there and was not tried in vain."""
        return engine in self._candidates(self._service())

    def may_repeat(self) -> bool:
        """Whether a request that was sent may be sent once more."""
        return self.repeatable and self._failures <= self._retries

    def prefers_another(self, status: int) -> bool:
        """Whether an answer with this status should be left unread because another engine may do better."""
        if status not in _NOT_TAKEN and not (status in _SERVER_ERRORS and self.repeatable):
            return False
        return self._failures < self._retries and len(self._candidates(self._service())) > 1

    @property
    def others(self) -> bool:
        """Whether an engine is left that was not tried."""
        return bool(self._candidates(self._service()))
