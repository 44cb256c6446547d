"""What is in flight where: the numbers that picking, `/demand` and the gauges read. One event loop owns them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from mica_router.core.engines import Endpoint
from mica_router.core.pick import pick_endpoint
from mica_router.core.routes import Route, RouteTable, ServiceKey
from mica_router.metrics import ModelDemand
from mica_router.ports import Clock

_SUSPECT_SECONDS = 2.0
_Key = TypeVar("_Key", bound=Hashable)


class Load:
    """Counts per endpoint and per service, turns for ties, and endpoints whose last connection attempt failed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._endpoints: dict[Endpoint, int] = {}
        self._in_flight: dict[ServiceKey, int] = {}
        self._queued: dict[ServiceKey, int] = {}
        self._turns: dict[ServiceKey, int] = {}
        self._suspects: dict[Endpoint, float] = {}

    def pick(self, route: Route, *, tried: frozenset[Endpoint]) -> Endpoint | None:
        """An engine for one request of this service, or None when none is left."""
        key = route.service.key
        turn = self._turns[key] = self._turns.get(key, -1) + 1
        return pick_endpoint(
            route.service.endpoints,
            in_flight=self._endpoints,
            turn=turn,
            tried=tried,
            suspects=self._current_suspects() if self._suspects else (),
        )

    def _current_suspects(self) -> frozenset[Endpoint]:
        now = self._clock()
        self._suspects = {endpoint: until for endpoint, until in self._suspects.items() if until > now}
        return frozenset(self._suspects)

    def suspect(self, endpoint: Endpoint) -> None:
        """It refused a connection: prefer others for a moment."""
        self._suspects[endpoint] = self._clock() + _SUSPECT_SECONDS

    def sound(self, endpoint: Endpoint) -> None:
        """It accepted a connection."""
        self._suspects.pop(endpoint, None)

    def enter_queue(self, key: ServiceKey) -> None:
        """A request was accepted."""
        _add(self._queued, key, 1)

    def leave_queue(self, key: ServiceKey) -> None:
        """It was handed to an engine, or ended before that."""
        _add(self._queued, key, -1)

    def enter_engine(self, key: ServiceKey) -> None:
        """An engine works on it."""
        _add(self._in_flight, key, 1)

    def leave_engine(self, key: ServiceKey) -> None:
        """The engine is done with it."""
        _add(self._in_flight, key, -1)

    def occupy(self, endpoint: Endpoint) -> None:
        """A request is on its way to this endpoint."""
        _add(self._endpoints, endpoint, 1)

    def vacate(self, endpoint: Endpoint) -> None:
        """It is no longer there."""
        _add(self._endpoints, endpoint, -1)

    def keep_only(self, table: RouteTable) -> None:
        """Forget the turns of services and the faults of engines that are gone. Counts end with the requests they count."""
        self._turns = {key: turn for key, turn in self._turns.items() if key in table.by_key}
        endpoints = table.endpoints()
        self._suspects = {endpoint: until for endpoint, until in self._suspects.items() if endpoint in endpoints}

    def demand(self, table: RouteTable) -> Mapping[str, ModelDemand]:
        """Per public model name, every listed model included."""
        return {
            route.public_name: ModelDemand(
                in_flight=self._in_flight.get(route.service.key, 0),
                queued=self._queued.get(route.service.key, 0),
            )
            for route in table.listed
        }


def _add(counts: dict[_Key, int], key: _Key, by: int) -> None:
    """Counts at zero are removed, so that endpoints which are gone leave nothing behind."""
    count = counts.get(key, 0) + by
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)
