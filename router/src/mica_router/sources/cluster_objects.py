"""What the router reads from cluster objects, and the services that follow from them. Pure; watching is in `cluster`.

An EndpointSlice says where engines are, the labels of its Service which tier they are, and the name of each pod which template it
was made from: engines of one template run the same program with the same weights, and only those continue each other's streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from mica_api.names import LABEL_INFERENCE_SERVICE, LABEL_TIER
from mica_router.core.engines import Endpoint, Engine, Kind, Tier
from mica_router.core.routes import Service, ServiceKey
from mica_router.sources.cluster_routing import CPUUse, Routing, read_routing

HTTP_PORT_NAME = "http"
_KINDS: Final[Mapping[str, Kind]] = {"vllm": "vllm", "llamacpp": "llamacpp"}


class _Meta(msgspec.Struct):
    name: str
    namespace: str
    creationTimestamp: datetime = datetime.fromtimestamp(0, UTC)
    labels: dict[str, str] = {}


class _Adapter(msgspec.Struct):
    name: str


class _ModelSource(msgspec.Struct):
    name: str | None = None
    aliases: list[str] | None = None
    adapters: list[_Adapter] | None = None


class _EngineSpec(msgspec.Struct):
    type: str = "llamacpp"
    maxInFlight: int | None = None


class _CPU(CPUUse):
    engine: _EngineSpec = msgspec.field(default_factory=_EngineSpec)


class _Spec(msgspec.Struct):
    model: _ModelSource = msgspec.field(default_factory=_ModelSource)
    engine: _EngineSpec = msgspec.field(default_factory=_EngineSpec)
    cpu: _CPU | None = None
    routing: Routing | None = None


class _Status(msgspec.Struct):
    apiKeyHashes: list[str] | None = None


class _InferenceService(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _Conditions(msgspec.Struct):
    ready: bool | None = None


class _PodRef(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _SliceEndpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)
    targetRef: _PodRef | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class _EndpointSlice(msgspec.Struct):
    metadata: _Meta
    endpoints: list[_SliceEndpoint] | None = None
    ports: list[_Port] | None = None


@dataclass(frozen=True, slots=True)
class Traits:
    """What all engines of one tier of a service have in common."""

    kind: Kind
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class Declared:
    """A service without engines, and what its engines are by tier."""

    service: Service
    traits: Mapping[Tier, Traits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineSet:
    """Ready engines of one tier of a service, from one EndpointSlice: where each is, and its pod's template ("" when unknown)."""

    key: ServiceKey
    tier: Tier
    places: tuple[tuple[Endpoint, str], ...]


_decode_service = msgspec.json.Decoder(_InferenceService).decode
_decode_slice = msgspec.json.Decoder(_EndpointSlice).decode


def read_inference_service(raw: bytes) -> Declared:
    """A service without engines. Raises msgspec.DecodeError, and ValueError for routing that cannot be enforced."""
    parsed = _decode_service(raw)
    meta, spec = parsed.metadata, parsed.spec
    traits: dict[Tier, Traits] = {"gpu": _traits(spec.engine)}
    if spec.cpu is not None:
        traits["cpu"] = _traits(spec.cpu.engine)
    service = Service(
        key=ServiceKey(meta.namespace, meta.name),
        model=spec.model.name or meta.name,
        created=int(meta.creationTimestamp.timestamp()),
        aliases=tuple(spec.model.aliases or ()),
        adapters=tuple(adapter.name for adapter in spec.model.adapters or ()),
        routing=read_routing(spec.routing, cpu=spec.cpu, key_hashes=parsed.status.apiKeyHashes or ()),
    )
    return Declared(service, traits)


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
        tier="cpu" if meta.labels.get(LABEL_TIER) == "cpu" else "gpu",
        places=tuple(
            (Endpoint(endpoint.addresses[0], port), _template(endpoint.targetRef))
            for endpoint in parsed.endpoints or ()
            if endpoint.conditions.ready is not False and endpoint.addresses
            for port in ports
        ),
    )


def join_services(services: Iterable[Declared], engines: Iterable[EngineSet]) -> tuple[Service, ...]:
    """Every service with the ready engines of all its slices, without repetition and in a fixed order.

    Engines of a tier that the service no longer declares are left out: they are about to end. Both tiers serve the same model, so
    that they mean the same by token ids; weights of another form are refused where the service relays.
    """
    found: dict[tuple[ServiceKey, Tier], dict[Endpoint, str]] = {}
    for engine_set in engines:
        found.setdefault((engine_set.key, engine_set.tier), {}).update(engine_set.places)
    return tuple(
        replace(
            declared.service,
            engines=tuple(
                Engine(
                    endpoint=endpoint,
                    tier=tier,
                    kind=traits.kind,
                    max_in_flight=traits.max_in_flight,
                    revision=template,
                    vocabulary=declared.service.model,
                )
                for tier, traits in declared.traits.items()
                for endpoint, template in sorted(found.get((declared.service.key, tier), {}).items())
            ),
        )
        for declared in services
    )


def _traits(engine: _EngineSpec) -> Traits:
    return Traits(kind=_KINDS.get(engine.type, "other"), max_in_flight=engine.maxInFlight or 0)


def _template(pod: _PodRef | None) -> str:
    """The template's hash in the name of a Deployment's pod: NAME-HASH-RANDOM."""
    parts = pod.name.rsplit("-", 2) if pod is not None and pod.kind == "Pod" else []
    return parts[1] if len(parts) == 3 else ""
