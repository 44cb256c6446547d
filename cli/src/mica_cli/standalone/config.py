"""The configuration file of the stand-alone router, as values: every key, its bounds, its default and what it does.

It is a superset of the files of the three generations of sysHAX, so that one of theirs works as it is. Every key is enforced by
the router or by `mica run`; one that cannot be is refused with words, never ignored. Pure: reading and writing is in `store`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mica_api.models.routing import RoutingRule

Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Interval = Annotated[float, Field(ge=0.1, le=3600)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Operator = Literal["gte", "lte", "gt", "lt", "eq", "in", "min_count", "max_count", "exists"]

TIERS: Final = ("gpu", "cpu")
DEFAULT_PORTS: Final = {"gpu": 7001, "cpu": 7002}
PLACEHOLDER: Final = "{MODEL_NAME}"
"""What the model's name is in a file that nobody has edited yet."""


class Section(BaseModel):
    """A part of the file. Unknown keys are errors; numbers may not be strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Engine(Section):
    """One engine of a tier."""

    host: Annotated[Host, Field(description="address or name of the engine")] = "127.0.0.1"
    port: Annotated[Port, Field(description="its port")]


class Conductor(Section):
    """Where the router itself listens."""

    host: Annotated[Host, Field(description="address that the router listens on")] = "0.0.0.0"
    port: Annotated[Port, Field(description="port of the OpenAI API")] = 7010


class Services(Section):
    """Who is where. A tier is one engine or a list of them; one tier may be empty."""

    gpu: Annotated[tuple[Engine, ...], Field(description="engines of the GPU tier: one, or a list")] = (Engine(port=7001),)
    cpu: Annotated[tuple[Engine, ...], Field(description="engines of the CPU tier: one, or a list")] = (Engine(port=7002),)
    conductor: Conductor = Conductor()

    @model_validator(mode="before")
    @classmethod
    def _one_engine_is_a_list_of_one(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return raw | {tier: _engines(raw[tier], tier) for tier in TIERS if tier in raw}

    @model_validator(mode="after")
    def _somebody_answers(self) -> Self:
        if not self.gpu and not self.cpu:
            raise ValueError("gpu and cpu are both empty: give at least one engine")
        engines = [f"{engine.host}:{engine.port}" for engine in self.gpu + self.cpu]
        twice = sorted({engine for engine in engines if engines.count(engine) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed more than once")
        return self


def _engines(raw: Any, tier: str) -> Any:
    if raw is None:
        return ()
    if isinstance(raw, dict):
        return ({"port": DEFAULT_PORTS[tier]} | raw,)
    return tuple(raw) if isinstance(raw, list) else raw


class Params(Section):
    """What a request gets that does not say it, and what the start-up test asks."""

    max_tokens: Annotated[
        int | None, Field(ge=1, description="max_tokens of requests without one; null leaves it to the engine")
    ] = None
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="temperature of requests without one; null leaves it to the engine")
    ] = None
    test_prompt: Annotated[str, Field(min_length=1, max_length=10_000, description="prompt of the start-up test")] = (
        "Say in two sentences what a scheduler does."
    )
    test_tokens: Annotated[int, Field(ge=1, le=10_000, description="tokens that the start-up test generates")] = 30


class Models(Section):
    """The model that the engines serve."""

    default: Annotated[
        str, Field(min_length=1, max_length=512, description="the model, and what a request means that names none")
    ] = PLACEHOLDER
    params: Params = Params()


class System(Section):
    """Bounds of a request."""

    request_timeout: Annotated[Seconds, Field(description="seconds from a request's arrival to its last byte")] = 600.0
    max_queue_size: Annotated[Count, Field(description="requests that may wait for an engine; one more gets 429")] = 200


_HOPS: Final = ("token_limit_multiplier", "token_limit_min", "token_limit_max")
"""sysHAX's own files set these to their defaults, so that much is accepted where nothing hops."""


class Decider(Section):
    """When the CPU tier takes a request."""

    policy: Annotated[
        Literal["predict", "thresholds", "balance"],
        Field(
            description="predict: when the GPU tier is full, earliest predicted finish; thresholds: by max_num_seqs, "
            "gpu_cache_threshold and cpu_throughput_threshold (0.2.0); balance: by throughput per request (0.2.1)"
        ),
    ] = "predict"
    max_num_seqs: Annotated[
        Count, Field(description="requests that an engine takes at once; thresholds: also those at which a tier is full")
    ] = 256
    gpu_cache_threshold: Annotated[
        float, Field(gt=0, le=100, description="predict, thresholds: percent of KV cache above which the GPU tier is full")
    ] = 90.0
    cpu_throughput_threshold: Annotated[
        float, Field(ge=0, description="thresholds: tokens/s below which the CPU tier takes one request at a time")
    ] = 10.0
    relay: Annotated[
        bool,
        Field(
            description="thresholds: what a full GPU tier began goes on at the CPU tier, hop by hop (vLLM in both tiers); "
            "false: a request stays where it began"
        ),
    ] = False
    token_limit_multiplier: Annotated[
        float, Field(ge=0, le=10_000, description="relay: a hop has as many tokens as the CPU tier makes in so many seconds")
    ] = 4.0
    token_limit_min: Annotated[
        int, Field(ge=1, le=1_000_000, description="relay: tokens of a hop at least, and those that the GPU tier begins with")
    ] = 10
    token_limit_max: Annotated[int, Field(ge=1, le=1_000_000, description="relay: tokens of a hop at most")] = 100
    cpu_max_batch_size: Annotated[Count, Field(description="predict, balance: requests on the CPU tier at most")] = 20
    auto_pd_offload: Annotated[bool, Field(description="only false: moving KV caches needs patched engines")] = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.auto_pd_offload:
            raise ValueError("auto_pd_offload moves KV caches between patched engines, which Mica does not do: set it to false")
        if self.relay and self.policy != "thresholds":
            raise ValueError("relay is for decider.policy thresholds: set that first, or set relay to false")
        for name in _HOPS:
            if self._is_set(name) and not self.relay:
                default = type(self).model_fields[name].default
                raise ValueError(
                    f"{name} is about hops between tiers: set decider.relay to true first, or leave it at {default:g}"
                )
        if self.token_limit_min > self.token_limit_max:
            raise ValueError(f"token_limit_min is above token_limit_max ({self.token_limit_min} > {self.token_limit_max})")
        return self

    @model_validator(mode="after")
    def _used_by_the_policy(self) -> Self:
        if self.policy != "thresholds" and self._is_set("cpu_throughput_threshold"):
            raise ValueError("cpu_throughput_threshold is for decider.policy thresholds: set that first, or remove it")
        if self.policy == "balance" and self._is_set("gpu_cache_threshold"):
            raise ValueError("gpu_cache_threshold is for decider.policy predict and thresholds: remove it")
        if self.policy == "thresholds" and self._is_set("cpu_max_batch_size"):
            raise ValueError("cpu_max_batch_size is for decider.policy predict and balance: remove it")
        if self.policy == "predict" and self.gpu_cache_threshold % 1:
            raise ValueError("gpu_cache_threshold must be a whole number for decider.policy predict")
        return self

    def _is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class Monitor(Section):
    """How often engines are asked for their metrics."""

    interval: Annotated[Interval, Field(description="seconds between two readings of an engine's metrics")] = 5.0


class Heartbeat(Section):
    """How engines are found dead, and alive again."""

    interval: Annotated[Interval, Field(description="seconds between two probes of an engine's /health")] = 10.0
    timeout: Annotated[Seconds, Field(description="seconds after which a probe has failed")] = 3.0
    fail_threshold: Annotated[
        int, Field(ge=1, le=100, description="failed probes in a row after which an engine gets no requests")
    ] = 3


class Action(Section):
    """What a rule does."""

    device: Literal["GPU", "CPU"]


class Rule(Section):
    """Requests whose fields are like this go there."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    conditions: Annotated[dict[str, dict[Operator, Any]], Field(min_length=1)]
    action: Action

    @model_validator(mode="after")
    def _the_router_takes_it(self) -> Self:
        try:
            RoutingRule.model_validate(self.model_dump())
        except ValidationError as error:
            places = [(".".join(map(str, entry["loc"])), entry["msg"]) for entry in error.errors()]
            raise ValueError("; ".join(f"{place}: {text}" for place, text in places)) from error
        return self


class Routing(Section):
    """Rules on the fields of requests."""

    rules: Annotated[tuple[Rule, ...], Field(description="rules that send requests to a tier by their fields")] = ()

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("rules"), list):
            return raw | {"rules": tuple(raw["rules"])}
        return raw

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rule {', '.join(twice)} is listed more than once")
        return self


class Config(Section):
    """The whole file."""

    services: Services = Services()
    models: Models = Models()
    system: System = System()
    decider: Decider = Decider()
    monitor: Monitor = Monitor()
    heartbeat: Heartbeat = Heartbeat()
    routing: Routing = Routing()

    @model_validator(mode="after")
    def _what_divides_has_two_tiers(self) -> Self:
        absent = next((tier for tier in TIERS if not getattr(self.services, tier)), None)
        if absent is None:
            return self
        names = ["relay", "policy", "gpu_cache_threshold", "cpu_throughput_threshold"]
        for name in names if absent == "gpu" else [*names, "cpu_max_batch_size"]:
            default = type(self.decider).model_fields[name].default
            if getattr(self.decider, name) != default:
                raise ValueError(
                    f"decider.{name} does nothing while services.{absent} is empty: add an engine there, or set it to "
                    f"{str(default).lower()}"
                )
        if self.routing.rules:
            raise ValueError(
                f"routing.rules choose between two tiers and do nothing while services.{absent} is empty: add an engine there, "
                "or set them to []"
            )
        return self
