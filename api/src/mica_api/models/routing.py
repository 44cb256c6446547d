"""Models of `spec.routing` and `spec.cpu`: how the router divides the requests of a service.

Rules have the form that sysHAX gives them, so that a block can be moved from its configuration file into an object.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from mica_api.models.common import Model, rule
from mica_api.models.engine import Duration, EngineSpec, Quantity
from mica_api.models.placement import PlacementSpec

_AnyValue = Annotated[Any, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
_Count = Annotated[int | None, Field(ge=0, le=1_000_000)]


class Comparison(Model):
    """What a field is compared with. All that are set must hold."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    eq: Annotated[_AnyValue, Field(description="Equal as JSON: 1 equals 1.0 and is not true.")] = None
    in_: Annotated[
        list[_AnyValue] | None, Field(alias="in", min_length=1, max_length=64, description="Equal to one of these.")
    ] = None
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None
    min_count: Annotated[_Count, Field(alias="min_count", description="A list with at least so many items.")] = None
    max_count: Annotated[_Count, Field(alias="max_count", description="A list with at most so many items.")] = None
    exists: Annotated[bool | None, Field(description="Whether the field is there and not null.")] = None

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("compares with nothing: set eq, in, gt, gte, lt, lte, min_count, max_count or exists")
        return self


class RuleAction(Model):
    """Where a rule sends requests."""

    device: Annotated[Literal["GPU", "CPU"], Field(description="Tier; where it has no room, the rule is passed over.")]


class RoutingRule(Model):
    """Requests that meet every condition prefer a tier."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.conditions.all(field, size(field) > 0 && field != 'header:')",
                    "a condition needs the name of a field, or header: and the name of a header",
                )
            ]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=63)]
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000, description="Higher ones are tried first.")] = 0
    conditions: Annotated[
        dict[str, Comparison],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={"minProperties": 1},
            description="By field of the JSON body (a.b is inside a), prompt_tokens (estimated), path or header:NAME.",
        ),
    ]
    action: RuleAction


class RoutingTimeouts(Model):
    """Deadlines towards engines. Unset: the router's settings."""

    connect: Duration | None = None
    first_byte: Annotated[Duration | None, Field(description="From the request sent to the first byte of the answer.")] = None
    idle: Annotated[Duration | None, Field(description="Between two pieces of an answer.")] = None
    total: Annotated[Duration | None, Field(description="Of the whole request, time in the queue included.")] = None


class RoutingQueue(Model):
    """Requests that are held while no engine can take them."""

    max_requests: Annotated[int, Field(ge=0, le=100_000, description="Per router process; further ones get 429.")] = 512
    max_wait: Annotated[Duration, Field(description="Then 503 with Retry-After.")] = "120s"
    heartbeat: Annotated[Duration, Field(description="Between comments that keep a held stream open; 0s: none.")] = "10s"


class KeySecretRef(Model):
    """A Secret of the same namespace. Every value in it is an API key."""

    name: Annotated[str, Field(min_length=1, max_length=253)]


class RoutingSpec(Model):
    """How requests find an engine, and what happens when that fails."""

    policy: Annotated[
        Literal["auto", "round-robin", "least-inflight", "p2c", "session", "prefix"],
        Field(description="auto: session where the header is there, else least-inflight."),
    ] = "auto"
    session_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$", max_length=64)] = "x-session-id"
    timeouts: RoutingTimeouts | None = None
    retries: Annotated[int, Field(ge=0, le=10, description="Further engines that are tried before the first byte.")] = 2
    resume_mid_stream: Annotated[
        bool, Field(description="Continue a broken stream on another engine, where that can be exact.")
    ] = True
    hedge_after: Annotated[
        Duration | None, Field(description="Send a whole answer's request to a second engine after this silence.")
    ] = None
    queue: RoutingQueue = RoutingQueue()
    api_key_secret_ref: Annotated[
        KeySecretRef | None,
        Field(description="Clients must send one of its values as a bearer token. The router sees only hashes."),
    ] = None
    rules: Annotated[list[RoutingRule] | None, Field(max_length=64)] = None


class CPUWhen(Model):
    """When requests go to the CPU tier."""

    gpu_kv_percent: Annotated[
        int, Field(alias="gpuKVPercent", ge=0, le=100, description="The GPU tier's cache is fuller than this.")
    ] = 90
    gpu_waiting: Annotated[int, Field(ge=1, le=100_000, description="So many requests would wait for the GPU tier.")] = 1
    no_gpu_ready: Annotated[bool, Field(alias="noGPUReady", description="No GPU engine is ready.")] = True


class CPUSpec(Model):
    """Engines of the same model that run on CPUs, without a slice."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.mode != 'relay' || (has(self.engine) && self.engine.type == 'vllm')",
                    "cpu.mode relay needs cpu.engine.type vllm: only vLLM continues from token ids",
                ),
                rule(
                    "self.mode != 'relay' || !has(self.uri)",
                    "cpu.mode relay and cpu.uri cannot be combined: both tiers serve spec.model.uri, so that token ids agree",
                ),
                rule(
                    "!has(self.engine) || !has(self.engine.resources)",
                    "cpu.engine.resources is not used: set cpu.cores and cpu.memory",
                ),
            ]
        }
    )

    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    engine: EngineSpec = EngineSpec()
    uri: Annotated[
        str | None,
        Field(
            min_length=8,
            max_length=1024,
            pattern="^file:///",
            description="Weights of the CPU engines where they need another form, as file:///PATH. Default: spec.model.uri.",
        ),
    ] = None
    cores: Annotated[int, Field(ge=1, le=1024, description="CPUs of each replica; it runs as many threads.")] = 4
    memory: Quantity = "8Gi"
    placement: PlacementSpec | None = None
    mode: Annotated[
        Literal["overflow", "standby", "relay"],
        Field(
            description="overflow: also when the GPU tier is saturated; standby: only when no GPU engine is ready; relay: when "
            "the GPU tier is saturated, it begins answers and the CPU tier continues them."
        ),
    ] = "overflow"
    when: CPUWhen = CPUWhen()
    max_output_tokens: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Requests that may get longer answers, or do not say how long, do not overflow. 0: any may.",
        ),
    ] = 256
    relay_after_tokens: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Mode relay: tokens of an answer that the GPU tier makes before the CPU tier continues.",
        ),
    ] = 64
