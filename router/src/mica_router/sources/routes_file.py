"""Routes from a YAML or JSON file: its validation and its conversion to services. Pure; reading is in `file`.

models:
  - name: chat                  # service name, and model name unless `model` says otherwise
    namespace: default          # optional
    model: my-org/chat-7b       # optional: the name that clients ask for and engines know
    endpoints: [http://127.0.0.1:8001, https://10.0.0.7:8000]

In place of `endpoints`, `engines` says more of each. `docs/stand-alone.md` lists every key. `routing` and `cpu` are those of an
InferenceService and are read by the same models and the same conversion; `defaults`, `decider`, `default` and `apiKeys` exist
only here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import msgspec
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from mica_api.models.routing import CPUWhen, RoutingSpec
from mica_router.core.engines import Endpoint, Engine, Kind, Tier
from mica_router.core.routes import Service, ServiceKey
from mica_router.core.routing import DeciderUse, RequestDefaults, Routing
from mica_router.ports import RouteSourceError
from mica_router.sources import cluster_routing

_Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
_ModelName = Annotated[str, Field(min_length=1, max_length=512)]
_Label = Annotated[str, Field(max_length=253)]
_PORTS = {"http": 80, "https": 443}


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError("must start with http:// or https://")
    if not parts.hostname or parts.username or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise ValueError("must be http[s]://HOST:PORT and nothing more")
    if not parts.hostname.isascii():
        raise ValueError(f"must name its host in ASCII: {parts.hostname.encode('idna').decode()}")
    if parts.port == 0:
        raise ValueError("port 0 cannot be connected to")
    return url


_Url = Annotated[str, AfterValidator(_check_url)]


class _Part(BaseModel):
    """A mapping of the file: camelCase, unknown keys refused, numbers are no strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel, populate_by_name=False)


class _Engine(_Part):
    url: _Url
    tier: Tier = "gpu"
    kind: Kind = "other"
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    max_in_flight: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    revision: _Label = ""
    dtype: _Label = ""
    version: _Label = ""
    numerics: _Label = ""

    def engine(self) -> Engine:
        return Engine(endpoint=_endpoint(self.url), **self.model_dump(exclude={"url"}))


class _Defaults(_Part):
    max_tokens: Annotated[int | None, Field(ge=1, alias="max_tokens")] = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None


class _Predict(_Part):
    policy: Literal["predict"]


class _Thresholds(_Part):
    policy: Literal["thresholds"]
    max_num_seqs: Annotated[int, Field(ge=1)] | None = 256
    gpu_cache_threshold: Annotated[float, Field(gt=0, le=100)] = 90.0
    cpu_throughput_threshold: Annotated[float, Field(ge=0)] = 10.0
    token_limit_multiplier: Annotated[float, Field(ge=0)] = 4.0
    token_limit_min: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    token_limit_max: Annotated[int, Field(ge=1, le=1_000_000)] = 100

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.token_limit_min > self.token_limit_max:
            raise ValueError("tokenLimitMin is above tokenLimitMax")
        return self


class _Balance(_Part):
    policy: Literal["balance"]
    cpu_max_batch_size: Annotated[int, Field(ge=1)] = 20


class _CPU(_Part):
    """`spec.cpu` of an InferenceService, as far as it is about routing."""

    mode: Literal["overflow", "standby", "relay"] = "overflow"
    when: CPUWhen = CPUWhen()
    max_output_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    relay_after_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64


class _Model(_Part):
    name: _Name
    namespace: _Name = "default"
    model: _ModelName | None = None
    endpoints: list[_Url] = []
    engines: list[_Engine] = []
    aliases: list[_ModelName] = []
    adapters: list[_ModelName] = []
    default: bool = False
    routing: RoutingSpec | None = None
    cpu: _CPU | None = None
    defaults: _Defaults | None = None
    decider: Annotated[_Predict | _Thresholds | _Balance, Field(discriminator="policy")] | None = None
    api_keys: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = []

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.endpoints and self.engines:
            raise ValueError("endpoints and engines are both given: list every engine in engines")
        counts = Counter(_endpoint(engine.url).authority for engine in self.engines)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise ValueError(f"engine {', '.join(twice)} is listed more than once")
        if self.routing is not None and self.routing.api_key_secret_ref is not None:
            raise ValueError("routing.apiKeySecretRef names an object of a cluster: list sha256 digests of the keys in apiKeys")
        if self.cpu is not None and self.cpu.mode == "relay":
            self._can_relay()
        else:
            self._need_no_relay()
        return self

    def _need_no_relay(self) -> None:
        """Raises ValueError."""
        if self.cpu is not None and "relay_after_tokens" in self.cpu.model_fields_set:
            raise ValueError("cpu.relayAfterTokens is for cpu.mode relay: set that, or remove it")
        if isinstance(self.decider, _Thresholds) and any(
            name.startswith("token_limit") for name in self.decider.model_fields_set
        ):
            raise ValueError("decider.tokenLimit… bound the hops of cpu.mode relay: set that, or remove them")

    def _can_relay(self) -> None:
        """Raises ValueError. A key that could do nothing is refused."""
        if self.routing is not None and not self.routing.resume_mid_stream:
            raise ValueError("cpu.mode relay goes on with streams in mid-stream: remove routing.resumeMidStream: false")
        if isinstance(self.decider, _Balance):
            raise ValueError("decider.policy balance does not relay: use predict or thresholds, or cpu.mode overflow")
        engines = [engine.engine() for engine in self.engines]
        gpu, cpu = ([engine for engine in engines if engine.tier == tier] for tier in ("gpu", "cpu"))
        if not any(after.takes_over(before) for after in cpu for before in gpu):
            raise ValueError(
                "cpu.mode relay needs an engine of each tier with kind: vllm and the same revision, "
                "because token ids must mean the same to both"
            )

    @model_validator(mode="after")
    def _no_key_is_in_vain(self) -> Self:
        """Combinations in which a key could do nothing."""
        routing = self.routing
        if routing is not None and "session_header" in routing.model_fields_set and routing.policy not in ("auto", "session"):
            raise ValueError(f"routing.sessionHeader is for policies auto and session, not {routing.policy}: remove it")
        if self.cpu is not None:
            self._cpu_is_heeded(self.cpu)
        if self.endpoints or self.engines:
            self._tiers_are_there()
        return self

    def _cpu_is_heeded(self, cpu: _CPU) -> None:
        """Raises ValueError. sysHAX's deciders know no other thresholds than their own, and no tier that only stands by."""
        said = cpu.model_fields_set & {"when", "max_output_tokens"}
        if isinstance(self.decider, _Thresholds | _Balance):
            said |= {"mode"} if cpu.mode == "standby" else set()
            why = f"decider.policy {self.decider.policy} decides without it"
        elif cpu.mode == "standby":
            said -= {"when"} if cpu.when.model_fields_set <= {"no_gpu_ready"} else set()
            why = "in mode standby the CPU tier answers only while no GPU engine is ready"
        else:
            return
        if said:
            keys = ", ".join(f"cpu.{to_camel(name)}" for name in sorted(said))
            raise ValueError(f"{keys} would do nothing, because {why}: remove it")

    def _tiers_are_there(self) -> None:
        """Raises ValueError where something divides requests between tiers of which one has no engine."""
        tiers = {engine.tier for engine in self.engines} or {"gpu"}
        if self.cpu is not None and "cpu" not in tiers:
            raise ValueError("cpu says how engines of the CPU tier are used: list one in engines with tier: cpu, or remove it")
        if isinstance(self.decider, _Thresholds | _Balance) and len(tiers) < 2:
            raise ValueError(
                f"decider.policy {self.decider.policy} divides requests between two tiers: list engines with tier: gpu and with "
                "tier: cpu, or remove decider"
            )
        if self.routing is not None and self.routing.rules and len(tiers) < 2:
            raise ValueError(
                "routing.rules choose between two tiers: list engines with tier: gpu and with tier: cpu, or remove routing.rules"
            )

    def names(self) -> list[str]:
        """Every name that clients may use."""
        return [self.model or self.name, *self.aliases, *self.adapters]

    def service(self, *, created: int) -> Service:
        engines = [Engine(endpoint=endpoint) for endpoint in dict.fromkeys(map(_endpoint, self.endpoints))]
        return Service(
            key=ServiceKey(self.namespace, self.name),
            model=self.model or self.name,
            created=created,
            engines=tuple(engines or [engine.engine() for engine in self.engines]),
            aliases=tuple(self.aliases),
            adapters=tuple(self.adapters),
            routing=self._routing(),
            default=self.default,
        )

    def _routing(self) -> Routing:
        """Raises ValueError."""
        spec = None if self.routing is None else msgspec.convert(self.routing.to_wire(), cluster_routing.Routing)
        cpu = msgspec.convert(_wire(self.cpu or _CPU()), cluster_routing.CPUUse)
        return replace(
            cluster_routing.read_routing(spec, cpu=cpu, key_hashes=()),
            api_keys=tuple(bytes.fromhex(digest) for digest in self.api_keys),
            decider=None if self.decider is None else DeciderUse(**self.decider.model_dump()),
            defaults=None if self.defaults is None else RequestDefaults(**self.defaults.model_dump()),
        )


class _RoutesFile(_Part):
    models: list[_Model]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        services = Counter(f"{model.namespace}/{model.name}" for model in self.models)
        names = Counter(name for model in self.models for name in model.names())
        for what, counts in (("service", services), ("model", names)):
            twice = sorted(name for name, count in counts.items() if count > 1)
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is listed more than once")
        if sum(model.default for model in self.models) > 1:
            raise ValueError("more than one model has default: true")
        return self


def _wire(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


def _endpoint(url: str) -> Endpoint:
    parts = urlsplit(url)
    return Endpoint(parts.hostname or "", parts.port or _PORTS[parts.scheme], parts.scheme == "https")


def parse_routes_file(text: str, *, created: int) -> tuple[Service, ...]:
    """Services of a routes file. `created` (seconds since the epoch) is shown in `/v1/models`.

    Raises RouteSourceError that names the place and what is wrong there.
    """
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RouteSourceError(f"not valid YAML or JSON: {error}") from error
    try:
        routes = _RoutesFile.model_validate(content)
    except ValidationError as error:
        raise RouteSourceError("; ".join(_explain(entry) for entry in error.errors())) from error
    return tuple(_service(model, place=f"models.{index}", created=created) for index, model in enumerate(routes.models))


def _service(model: _Model, *, place: str, created: int) -> Service:
    try:
        return model.service(created=created)
    except ValueError as error:
        raise RouteSourceError(f"{place}: {error}") from error


def _explain(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"])
    return f"{place or 'file'}: {entry['msg'].removeprefix('Value error, ')}"
