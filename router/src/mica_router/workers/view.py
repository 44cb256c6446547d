"""What the supervisor knows of engines, as a `LoadView`: for `/explain`, which must see what the workers see. Sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Endpoint
from mica_router.core.routes import ServiceKey
from mica_router.workers.supervisor import Supervisor


class SupervisorView:
    """`LoadView` of all workers together."""

    def __init__(self, supervisor: Supervisor, *, gauges_of: Callable[[Endpoint], EngineGauges | None]) -> None:
        self._supervisor = supervisor
        self._turn = -1
        self.gauges = gauges_of
        self.random = Random().random

    @property
    def fitness(self) -> Mapping[Endpoint, float]:
        """Engines that every worker has taken out."""
        return self._supervisor.fitness()

    def in_flight(self, endpoint: Endpoint) -> int:
        """Requests of all workers there."""
        return self._supervisor.in_flight(endpoint)

    def held(self, key: ServiceKey) -> int:
        """Not told by workers one by one: what is queued and not yet in flight."""
        return sum(
            demand.queued
            for name, demand in self._supervisor.snapshot().demand.items()
            if (route := self._supervisor.table.for_model(name)) is not None and route.service.key == key
        )

    def turn(self) -> int:
        """Rises with every call."""
        self._turn += 1
        return self._turn
