"""How each engine type is started, and what a replica asks of the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mica_api import dialects
from mica_api.models import InferenceService
from mica_api.models.inference_service import SliceSpec
from mica_api.request import MIB_PER_GIB

_SCHEME = "file://"


@dataclass(frozen=True, slots=True)
class Command:
    """What the engine's container runs; no command means the image's own."""

    command: tuple[str, ...]
    args: tuple[str, ...]


def engine_image(service: InferenceService, images: Mapping[str, str]) -> str | None:
    """Image of the engine: the one asked for, else the installation's for the type, else None."""
    engine = service.spec.engine
    return engine.image or images.get(engine.type)


def engine_command(service: InferenceService) -> Command:
    """Arguments of the type, then the user's own, which win where the engine lets the last one win."""
    engine = service.spec.engine
    own = tuple(engine.args or ())
    if engine.type == "custom":
        return Command(tuple(engine.command or ()), own)
    path = service.spec.model.uri.removeprefix(_SCHEME)
    serve = ("--host", "0.0.0.0", "--port", str(engine.port))
    if engine.type == "llamacpp":
        return Command((), ("--model", path, "--alias", service.model_name, *serve, *own))
    parallel = _tensor_parallel(service.spec.slice.number, own)
    return Command((), ("--model", path, "--served-model-name", service.model_name, *serve, *parallel, *own))


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


def takes_whole_cards(wanted: SliceSpec) -> bool:
    """Whether nothing else fits on a replica's cards."""
    return wanted.cores == 100 or (wanted.cores is None and wanted.memory is None)


def engine_env(service: InferenceService) -> list[dict[str, Any]]:
    """Environment of the engine; an empty value is left out, as the API server stores it."""
    return [{"name": v.name, "value": v.value} if v.value else {"name": v.name} for v in service.spec.engine.env or ()]


def _tensor_parallel(number: int, own: tuple[str, ...]) -> tuple[str, ...]:
    """vLLM uses one GPU unless told; more than one is asked for to split the model over them."""
    flag = "--tensor-parallel-size"
    told = any(arg == "-tp" or arg.split("=", 1)[0] == flag for arg in own)
    return (flag, str(number)) if number > 1 and not told else ()
