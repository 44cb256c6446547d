"""What is in flight where: the numbers that choosing, `/demand` and the gauges read. One event loop owns them.

Counts per engine are shared by all workers of this router through `Counts`; the rest is this worker's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import RouteTable, ServiceKey
from mica_router.metrics import ModelDemand
from mica_router.ports import Clock, Counted, Counts
from mica_router.relay.counting import take_place
from mica_router.relay.health import Health, HealthRules
from mica_router.relay.waiting import WaitingRoom

_KEPT_ZEROS: Final = 256


class _Zeros(dict[Counted, int]):
    """Counts that begin at zero. When there are many, a new one removes those that are zero again: engines come and go."""

    def __missing__(self, counted: Counted) -> int:
        for zero in [known for known, count in self.items() if not count and len(self) > _KEPT_ZEROS]:
            del self[zero]
        self[counted] = 0
        return 0


class LocalCounts:
    """Requests per engine and held ones per service, of this process alone."""

    def __init__(self) -> None:
        self._counts = _Zeros()
        # How many: the dictionary's own method, because every choice looks at every engine.
        self.get: Callable[[Counted], int] = self._counts.__getitem__

    def add(self, counted: Counted, by: int, /) -> None:
        """One more or one less."""
        self._counts[counted] += by


class Tally:
    """Requests of one service: those not yet handed to an engine, and those that an engine works on."""

    __slots__ = ("in_flight", "queued")

    def __init__(self) -> None:
        self.queued = 0
        self.in_flight = 0


_NOTHING = Tally()


class Load:
    """`LoadView` of the choosers, and its writers."""

    def __init__(
        self,
        clock: Clock,
        *,
        counts: Counts | None = None,
        rules: HealthRules | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock
        self._counts = counts or LocalCounts()
        # Requests of all workers at an engine: without a method in between, because every choice looks at every engine.
        self.in_flight: Callable[[Endpoint], int] = self._counts.get
        self.health = Health(clock, rules)
        self.waiting = WaitingRoom(self._counts)
        self.random = random or Random().random
        self._tallies: dict[ServiceKey, Tally] = {}
        self.gauges_of: Callable[[Endpoint], EngineGauges | None] = lambda endpoint: None
        self._turn = -1

    # What choosers see.

    @property
    def fitness(self) -> Mapping[Endpoint, float]:
        """Engines that are not wholly sound."""
        return self.health.fitness

    def held(self, key: ServiceKey) -> int:
        """Requests of a service in this worker's line."""
        return self.waiting.length(key)

    def turn(self) -> int:
        """A number that rises with every call."""
        self._turn += 1
        return self._turn

    def gauges(self, endpoint: Endpoint) -> EngineGauges | None:
        """The last scrape with its age of now."""
        return self.gauges_of(endpoint)

    # Counting.

    def tally(self, key: ServiceKey) -> Tally:
        """Requests of a service at this worker, for whoever counts them."""
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally()
        return found

    @property
    def counted(self) -> int:
        """Requests of all services that are under way at this worker."""
        return sum(tally.queued + tally.in_flight for tally in self._tallies.values())

    def occupy(self, endpoint: Endpoint) -> None:
        """A request is on its way to this engine."""
        self._counts.add(endpoint, 1)

    def take(self, engine: Engine) -> bool:
        """`occupy`, where its bound leaves room."""
        return take_place(self._counts, engine.endpoint, most=engine.max_in_flight)

    def vacate(self, endpoint: Endpoint) -> None:
        """It is no longer there."""
        self._counts.add(endpoint, -1)

    def keep_only(self, table: RouteTable) -> None:
        """Forget the faults of engines that are gone. Counts end with the requests they count."""
        self.health.keep_only([{engine.endpoint for engine in route.service.engines} for route in table.by_key.values()])
        self._tallies = {
            key: tally for key, tally in self._tallies.items() if key in table.by_key or tally.queued or tally.in_flight
        }

    def demand(self, table: RouteTable) -> Mapping[str, ModelDemand]:
        """Per public name of a service, every listed one included."""
        return {route.public_name: self._demand_of(route.service.key) for route in table.by_key.values()}

    def _demand_of(self, key: ServiceKey) -> ModelDemand:
        oldest, tally = self.waiting.oldest(key), self._tallies.get(key) or _NOTHING
        return ModelDemand(
            in_flight=tally.in_flight,
            queued=tally.queued,
            oldest_wait=0.0 if oldest is None else max(0.0, self._clock() - oldest),
        )
