"""The route table: which model name and which path lead to which service, and its ready engines.

Naming rules, in the order in which they win:

1. `<namespace>/<name>` (the InferenceService's own names) always leads to that service. Nobody can take it: a service that
   names its model `team-a/chat` does not get the requests of the service `chat` in namespace `team-a`.
2. A bare model name is served by the oldest service that claims it (creation time, then namespace, then name), so that a
   service that appears later cannot take over another one's traffic. The younger ones stay reachable by rule 1 and by path.
3. The path `/models/<namespace>/<name>/...` always leads to that service.

Pure: a table is built from values and never changes; a new one replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple


class ServiceKey(NamedTuple):
    """Identity of an InferenceService."""

    namespace: str
    name: str

    @property
    def qualified(self) -> str:
        """The model name that always leads to this service."""
        return f"{self.namespace}/{self.name}"


class Endpoint(NamedTuple):
    """Where one engine listens. `host` is an address or a DNS name, IPv6 without brackets."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Value for a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One model as it is served: the name its engines know it by, since when, and where it is ready."""

    key: ServiceKey
    model: str
    created: int = 0
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A service under the name that clients see in `/v1/models`."""

    public_name: str
    service: Service


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every way to a service. Build it with `build_table`."""

    by_model: Mapping[str, Route]
    by_key: Mapping[ServiceKey, Route]
    listed: tuple[Route, ...]

    def for_model(self, model: str) -> Route | None:
        """The route of a model name, bare or qualified."""
        return self.by_model.get(model)

    def for_path(self, *, namespace: str, name: str) -> Route | None:
        """The route of `/models/<namespace>/<name>/`."""
        return self.by_key.get(ServiceKey(namespace, name))

    def current(self, route: Route) -> Route | None:
        """The same service as this table knows it, or None if it is gone."""
        return self.by_key.get(route.service.key)

    def endpoints(self) -> frozenset[Endpoint]:
        """Every engine of every service."""
        return frozenset(endpoint for route in self.listed for endpoint in route.service.endpoints)


def _seniority(service: Service) -> tuple[int, ServiceKey]:
    return service.created, service.key


def build_table(services: Iterable[Service]) -> RouteTable:
    """Apply the naming rules. Of two services with one key, the last is used (sources do not produce that)."""
    unique = {service.key: service for service in services}
    ordered = sorted(unique.values(), key=_seniority)
    qualified = {service.key.qualified for service in ordered}
    owners: dict[str, ServiceKey] = {}
    for service in ordered:
        if service.model not in qualified:
            owners.setdefault(service.model, service.key)
    by_model: dict[str, Route] = {}
    by_key: dict[ServiceKey, Route] = {}
    for service in ordered:
        owns = owners.get(service.model) == service.key
        route = Route(public_name=service.model if owns else service.key.qualified, service=service)
        by_key[service.key] = route
        by_model[service.key.qualified] = route
        if owns:
            by_model[service.model] = route
    listed = tuple(sorted(by_key.values(), key=lambda route: route.public_name))
    return RouteTable(by_model=MappingProxyType(by_model), by_key=MappingProxyType(by_key), listed=listed)


EMPTY_TABLE = build_table(())
