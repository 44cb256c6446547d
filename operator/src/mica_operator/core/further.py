"""Conditions that do not decide whether a service is Ready: the CPU tier, names, API keys, scaling; each where it applies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mica_api.models.common import WantedCondition
from mica_operator.core.views import Observed
from mica_operator.core.words import counted

CPU_READY: Final = "CPUReady"
NAME_SHADOWED: Final = "NameShadowed"
KEYS_READ: Final = "KeysRead"
SCALED_TO_ZERO: Final = "ScaledToZero"
AUTOSCALING_ACTIVE: Final = "AutoscalingActive"


def further(observed: Observed) -> tuple[WantedCondition, ...]:
    """Those that apply to this service."""
    return tuple(_further(observed))


def cpu_serves(observed: Observed) -> bool:
    """Whether the CPU tier answers what no GPU engine does."""
    cpu = observed.service.spec.cpu
    return cpu is not None and cpu.when.no_gpu_ready and observed.cpu_state.ready > 0


def _further(observed: Observed) -> Iterator[WantedCondition]:
    spec = observed.service.spec
    if spec.cpu is not None:
        yield _cpu(observed, spec.cpu.replicas)
    if observed.shadowed:
        yield _shadowed(observed)
    if spec.routing is not None and spec.routing.api_key_secret_ref is not None:
        yield _keys(observed)
    if observed.scaling is not None:
        yield from _scaling(observed)


def _cpu(observed: Observed, wanted: int) -> WantedCondition:
    state = observed.cpu_state
    ready = min(state.ready, wanted)
    message = counted(ready, "CPU engine", "answer", of=wanted)
    if wanted == 0:
        return WantedCondition(CPU_READY, "False", "ScaledToZero", "spec.cpu.replicas is 0")
    if state.failure and ready < wanted:
        return WantedCondition(CPU_READY, "False" if not ready else "True", "PodsRefused", f"{message}; {state.failure}")
    if not ready:
        return WantedCondition(CPU_READY, "False", "Starting", f"{message}; see kubectl describe deployment of the CPU tier")
    return WantedCondition(CPU_READY, "True", "Serving" if ready == wanted else "Degraded", message)


def _shadowed(observed: Observed) -> WantedCondition:
    meta = observed.service.metadata
    taken = ", ".join(f"{name} belongs to {owner}" for name, owner in observed.shadowed[:5])
    words = f"{taken}, which is older; clients reach this service as {meta.namespace}/{meta.name}, or give it names of its own"
    return WantedCondition(NAME_SHADOWED, "True", "NameTaken", words)


def _keys(observed: Observed) -> WantedCondition:
    if observed.keys.problem:
        words = f"{observed.keys.problem}; until then every request is refused"
        return WantedCondition(KEYS_READ, "False", "NoKeys", words)
    return WantedCondition(KEYS_READ, "True", "Read", counted(len(observed.keys.hashes), "key", "are") + " accepted")


def _scaling(observed: Observed) -> Iterator[WantedCondition]:
    scaling = observed.scaling
    assert scaling is not None, "asked only where there is one"
    if scaling.stale:
        yield WantedCondition(AUTOSCALING_ACTIVE, "False", "DemandUnknown", f"replicas stay as they are: {scaling.stale}")
    else:
        yield WantedCondition(AUTOSCALING_ACTIVE, "True", "FollowsDemand", scaling.reason)
    zero = scaling.replicas == 0
    yield WantedCondition(
        SCALED_TO_ZERO, "True" if zero else "False", "Idle" if zero else "InUse", "" if zero else "replicas are wanted"
    )
