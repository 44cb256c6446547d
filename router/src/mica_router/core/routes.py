"""The route table: which model name and which path lead to which service, and its ready engines.

Naming rules, in the order in which they win:

1. `<namespace>/<name>` (the InferenceService's own names) always leads to that service. Nobody can take it: a service that
   names its model `team-a/chat` does not get the requests of the service `chat` in namespace `team-a`.
2. A bare model name is served by the oldest service that claims it (creation time, then namespace, then name), so that a
   service that appears later cannot take over another one's traffic. The younger ones stay reachable by rule 1 and by path.
   Aliases and adapters are claimed in the same way after all models; `<namespace>/<name>/<adapter>` always leads to an adapter.
3. The path `/models/<namespace>/<name>/...` always leads to that service.
4. A request that names no model is meant for the service that is the default one, where there is one (routes files only).

Pure: a table is built from values and never changes; a new one replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routing import DEFAULT_ROUTING, Routing


class ServiceKey(NamedTuple):
    """Identity of an InferenceService."""

    namespace: str
    name: str

    @property
    def qualified(self) -> str:
        """The model name that always leads to this service."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One model as it is served: the name its engines know it by, its other names, since when, and where it is ready.

    `aliases` are other names of the model, `adapters` names of LoRA adapters that its engines have loaded. `default`: requests
    that name no model mean this one.
    """

    key: ServiceKey
    model: str
    created: int = 0
    engines: tuple[Engine, ...] = ()
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    routing: Routing = DEFAULT_ROUTING
    default: bool = False

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where its engines listen."""
        return tuple(engine.endpoint for engine in self.engines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A service under a name that clients use. `engine_model` is what engines know it by: the model, or one of its adapters."""

    public_name: str
    service: Service
    engine_model: str


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every way to a service. Build it with `build_table`. `default`: where requests without a model go."""

    by_model: Mapping[str, Route]
    by_key: Mapping[ServiceKey, Route]
    listed: tuple[Route, ...]
    default: Route | None = None

    def for_model(self, model: str) -> Route | None:
        """The route of a model name, bare or qualified."""
        return self.by_model.get(model)

    def for_path(self, *, namespace: str, name: str) -> Route | None:
        """The route of `/models/<namespace>/<name>/`."""
        return self.by_key.get(ServiceKey(namespace, name))

    def current(self, route: Route) -> Route | None:
        """The same service as this table knows it, or None if it is gone."""
        return self.by_key.get(route.service.key)

    def public_names(self) -> frozenset[str]:
        """Every name that a request may be counted under: also those that are reached by qualified names only."""
        return frozenset(route.public_name for route in (*self.by_model.values(), *self.by_key.values()))

    def endpoints(self) -> frozenset[Endpoint]:
        """Every engine of every service."""
        return frozenset(endpoint for route in self.by_key.values() for endpoint in route.service.endpoints)


def _seniority(service: Service) -> tuple[int, ServiceKey]:
    return service.created, service.key


def build_table(services: Iterable[Service]) -> RouteTable:
    """Apply the naming rules. Of two services with one key, the last is used (sources do not produce that)."""
    unique = {service.key: service for service in services}
    ordered = sorted(unique.values(), key=_seniority)
    by_key: dict[ServiceKey, Route] = {}
    by_model: dict[str, Route] = {}
    for service in ordered:
        by_model.update(_reserved(service))
    for service in ordered:
        route = Route(public_name=service.model, service=service, engine_model=service.model)
        owned = by_model.setdefault(service.model, route)
        by_key[service.key] = owned if owned is route else by_model[service.key.qualified]
        by_model[service.key.qualified] = by_key[service.key]
    listed = list(by_key.values())
    for service in ordered:
        listed += _claim_further(service, by_model, by_key[service.key])
    listed.sort(key=lambda route: route.public_name)
    return RouteTable(
        by_model=MappingProxyType(by_model),
        by_key=MappingProxyType(by_key),
        listed=tuple(listed),
        default=next((by_key[service.key] for service in ordered if service.default), None),
    )


def _reserved(service: Service) -> dict[str, Route]:
    """The names nobody else can take."""
    qualified = service.key.qualified
    names = {qualified: Route(public_name=qualified, service=service, engine_model=service.model)}
    for adapter in service.adapters:
        name = f"{qualified}/{adapter}"
        names[name] = Route(public_name=name, service=service, engine_model=adapter)
    return names


def _claim_further(service: Service, by_model: dict[str, Route], main: Route) -> list[Route]:
    """Take adapters and aliases that are still free. Returns what is listed beside the model: its adapters."""
    listed = []
    for adapter in service.adapters:
        own = Route(public_name=adapter, service=service, engine_model=adapter)
        taken = by_model.setdefault(adapter, own)
        listed.append(own if taken is own else by_model[f"{service.key.qualified}/{adapter}"])
    for alias in service.aliases:
        by_model.setdefault(alias, main)
    return listed


EMPTY_TABLE = build_table(())
