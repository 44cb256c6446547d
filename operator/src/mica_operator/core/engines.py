"""How each engine type is started, and what a replica asks of the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mica_api import dialects
from mica_api.compute import ComputeChoice, compute_annotations, parse_policy, parse_priority
from mica_api.models import InferenceService
from mica_api.models.engine import EngineSpec
from mica_api.models.inference_service import SliceSpec
from mica_api.models.placement import PlacementSpec
from mica_api.request import MIB_PER_GIB

_SCHEME = "file://"
# The router decides between tiers by what engines say of themselves; llama.cpp's server keeps silent unless told.
_LLAMACPP_METRICS = ("--metrics",)

Tier = Literal["gpu", "cpu"]


@dataclass(frozen=True, slots=True)
class Command:
    """What the engine's container runs; no command means the image's own."""

    command: tuple[str, ...]
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One tier of a service: what its pods run, and on what."""

    tier: Tier
    engine: EngineSpec
    uri: str
    replicas: int
    resources: Mapping[str, Mapping[str, str]]
    env: Mapping[str, str]
    placement: PlacementSpec | None
    whole_cards: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)

    def image(self, images: Mapping[str, str]) -> str | None:
        """Image of the engine: the one asked for, else the installation's for the type, else None."""
        return self.engine.image or images.get(self.engine.type)


def gpu_role(service: InferenceService, replicas: int) -> Role:
    """Engines on slices."""
    spec = service.spec
    own = spec.engine.resources
    requests, limits = (own.requests or {}, own.limits or {}) if own is not None else ({}, {})
    resources = {"limits": {**limits, **slice_limits(spec.slice)}}
    return Role(
        tier="gpu",
        engine=spec.engine,
        uri=spec.model.uri,
        replicas=replicas,
        resources={**resources, "requests": requests} if requests else resources,
        env=_revision(service),
        placement=spec.placement,
        whole_cards=takes_whole_cards(spec.slice),
        annotations=slice_annotations(spec.slice),
    )


def cpu_role(service: InferenceService) -> Role | None:
    """Engines on CPUs, or None when the service has none. Memory is bounded; CPU is asked for and may be exceeded."""
    cpu = service.spec.cpu
    if cpu is None:
        return None
    cores = str(cpu.cores)
    threads = {} if cpu.engine.type == "llamacpp" else {"OMP_NUM_THREADS": cores}
    return Role(
        tier="cpu",
        engine=cpu.engine,
        uri=cpu.uri or service.spec.model.uri,
        replicas=cpu.replicas,
        resources={"requests": {"cpu": cores, "memory": cpu.memory}, "limits": {"memory": cpu.memory}},
        env={**threads, **_revision(service)},
        placement=cpu.placement,
    )


def engine_command(service: InferenceService, role: Role) -> Command:
    """Arguments of the type, then the user's own, which win where the engine lets the last one win."""
    engine = role.engine
    own = tuple(engine.args or ())
    if engine.type == "custom":
        return Command(tuple(engine.command or ()), own)
    path = role.uri.removeprefix(_SCHEME)
    serve = ("--host", "0.0.0.0", "--port", str(engine.port))
    if engine.type == "llamacpp":
        metrics = _LLAMACPP_METRICS if service.spec.cpu is not None else ()
        threads = ("--threads", role.resources["requests"]["cpu"]) if role.tier == "cpu" else ()
        return Command((), ("--model", path, "--alias", service.model_name, *serve, *metrics, *threads, *own))
    parallel = _tensor_parallel(service.spec.slice.number, own) if role.tier == "gpu" else ()
    adapters = _adapters(service) if role.tier == "gpu" else ()
    return Command((), ("--model", path, "--served-model-name", service.model_name, *serve, *parallel, *adapters, *own))


def slice_limits(wanted: SliceSpec) -> dict[str, str]:
    """Resource limits that say exactly this slice.

    Memory that is no whole number of GiB has no Mica resource; HAMi's names have, and admission rewrites them without rounding.
    """
    mib = wanted.memory_mib
    whole = mib is None or mib % MIB_PER_GIB == 0
    dialect = dialects.MICA if whole else dialects.HAMI
    limits = {dialect.number: str(wanted.number)}
    if wanted.cores is not None:
        limits[dialect.cores] = str(wanted.cores)
    if mib is not None:
        ((resource, unit),) = dialect.memory.items()
        limits[resource] = str(mib // unit)
    return limits


def slice_annotations(wanted: SliceSpec) -> dict[str, str]:
    """Annotations that say how the slice shares the time of its cards."""
    compute = wanted.compute
    if compute is None:
        return {}
    choice = ComputeChoice(
        policy=None if compute.policy is None else parse_policy("slice.compute.policy", compute.policy),
        priority=None if compute.priority is None else parse_priority("slice.compute.priority", compute.priority),
        weight=compute.weight,
    )
    return compute_annotations(choice)


def takes_whole_cards(wanted: SliceSpec) -> bool:
    """Whether nothing else fits on a replica's cards."""
    return wanted.cores == 100 or (wanted.cores is None and wanted.memory is None)


def engine_env(role: Role) -> list[dict[str, Any]]:
    """Environment of the engine, the user's own last; an empty value is left out, as the API server stores it."""
    own = {variable.name: variable.value for variable in role.engine.env or ()}
    return [{"name": name, "value": value} if value else {"name": name} for name, value in {**role.env, **own}.items()]


def _revision(service: InferenceService) -> dict[str, str]:
    """Part of the pod, so that other weights at the same place are a new set of replicas."""
    revision = service.spec.model.revision
    return {"MICA_MODEL_REVISION": revision} if revision else {}


def _adapters(service: InferenceService) -> tuple[str, ...]:
    found = service.spec.model.adapters or ()
    modules = (f"{adapter.name}={adapter.uri.removeprefix(_SCHEME)}" for adapter in found)
    return ("--enable-lora", "--lora-modules", *modules) if found else ()


def _tensor_parallel(number: int, own: tuple[str, ...]) -> tuple[str, ...]:
    """vLLM uses one GPU unless told; more than one is asked for to split the model over them."""
    flag = "--tensor-parallel-size"
    told = any(arg == "-tp" or arg.split("=", 1)[0] == flag for arg in own)
    return (flag, str(number)) if number > 1 and not told else ()
