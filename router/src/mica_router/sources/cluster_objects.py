"""What the router reads from cluster objects, and the services that follow from them. Pure; watching is in `cluster`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from mica_api.names import LABEL_INFERENCE_SERVICE
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service, ServiceKey

HTTP_PORT_NAME = "http"


class _Meta(msgspec.Struct):
    name: str
    namespace: str
    creationTimestamp: datetime = datetime.fromtimestamp(0, UTC)
    labels: dict[str, str] = {}


class _ModelSource(msgspec.Struct):
    name: str | None = None


class _Spec(msgspec.Struct):
    model: _ModelSource = msgspec.field(default_factory=_ModelSource)


class _InferenceService(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Conditions(msgspec.Struct):
    ready: bool | None = None


class _SliceEndpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class _EndpointSlice(msgspec.Struct):
    metadata: _Meta
    endpoints: list[_SliceEndpoint] | None = None
    ports: list[_Port] | None = None


class EngineSet(msgspec.Struct, frozen=True):
    """Ready engines of one service, from one EndpointSlice."""

    key: ServiceKey
    endpoints: tuple[Endpoint, ...]


_decode_service = msgspec.json.Decoder(_InferenceService).decode
_decode_slice = msgspec.json.Decoder(_EndpointSlice).decode


def read_inference_service(raw: bytes) -> Service:
    """A service without endpoints. Raises msgspec.DecodeError."""
    parsed = _decode_service(raw)
    meta = parsed.metadata
    return Service(
        key=ServiceKey(meta.namespace, meta.name),
        model=parsed.spec.model.name or meta.name,
        created=int(meta.creationTimestamp.timestamp()),
    )


def read_endpoint_slice(raw: bytes) -> EngineSet:
    """Ready addresses at the port named `http`. An endpoint that does not say whether it is ready counts as ready (API rule).

    Raises msgspec.DecodeError; ValueError if the label is missing.
    """
    parsed = _decode_slice(raw)
    meta = parsed.metadata
    name = meta.labels.get(LABEL_INFERENCE_SERVICE)
    if name is None:
        raise ValueError(f"the label {LABEL_INFERENCE_SERVICE} is missing")
    ports = [port.port for port in parsed.ports or () if port.name == HTTP_PORT_NAME and port.port]
    return EngineSet(
        key=ServiceKey(meta.namespace, name),
        endpoints=tuple(
            Endpoint(endpoint.addresses[0], port)
            for endpoint in parsed.endpoints or ()
            if endpoint.conditions.ready is not False and endpoint.addresses
            for port in ports
        ),
    )


def join_services(services: Iterable[Service], engines: Iterable[EngineSet]) -> tuple[Service, ...]:
    """Every service with the ready engines of all its slices, without repetition and in a fixed order."""
    found: dict[ServiceKey, set[Endpoint]] = {}
    for engine_set in engines:
        found.setdefault(engine_set.key, set()).update(engine_set.endpoints)
    return tuple(
        Service(
            key=service.key,
            model=service.model,
            created=service.created,
            engines=tuple(Engine(endpoint=endpoint) for endpoint in sorted(found.get(service.key, ()))),
        )
        for service in services
    )
