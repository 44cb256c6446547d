"""Whether a router is of use to anybody: the condition `engines` of `/readyz`.

A model without engines is served by waiting for one, so a router whose models are all at zero is ready. One that knows engines,
finds every one of them out and can hold nothing for anybody is not: another router may see more.
"""

from __future__ import annotations

from collections.abc import Mapping

from mica_router.core.engines import Endpoint
from mica_router.core.routes import RouteTable, Service


def can_serve(table: RouteTable, fitness: Mapping[Endpoint, float]) -> bool:
    """Whether some service has an engine that is not out or holds requests until it has one, or there is no engine at all."""
    services = [route.service for route in table.by_key.values()]
    return not any(service.engines for service in services) or any(_serves(service, fitness) for service in services)


def _serves(service: Service, fitness: Mapping[Endpoint, float]) -> bool:
    if not service.engines:
        return service.routing.queue.max_requests > 0
    return any(fitness.get(engine.endpoint, 1.0) > 0 for engine in service.engines)
