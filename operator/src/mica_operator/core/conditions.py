"""Conditions of an InferenceService: what is wrong, where, and in whose words.

``Ready`` is true while at least one engine answers under the service's URL; fewer engines than wanted is its reason, not its end.
"""

from __future__ import annotations

from typing import Final

from mica_api.models.common import WantedCondition
from mica_operator.core.further import cpu_serves, further
from mica_operator.core.views import Observed, PodView, Waiting
from mica_operator.core.words import counted

SPEC_VALID: Final = "SpecValid"
SLICES_ALLOCATED: Final = "SlicesAllocated"
ENGINE_READY: Final = "EngineReady"
ROUTABLE: Final = "Routable"
READY: Final = "Ready"

_PULLING: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_REFUSED: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_STARTING: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


def conditions(observed: Observed, problem: WantedCondition | None) -> tuple[WantedCondition, ...]:
    """All conditions, Ready last. ``problem`` is why nothing can be made of the spec."""
    if problem is not None:
        unknown = "the specification cannot be carried out"
        rest = (WantedCondition(kind, "Unknown", "SpecInvalid", unknown) for kind in (SLICES_ALLOCATED, ENGINE_READY, ROUTABLE))
        return (problem, *rest, WantedCondition(READY, "False", problem.reason, problem.message))
    valid = WantedCondition(SPEC_VALID, "True", "Valid")
    parts = (valid, _slices(observed), _engine(observed), _routable(observed))
    return (*parts, *further(observed), _ready(observed, parts))


def spec_problem(reason: str, message: str) -> WantedCondition:
    """SpecValid=False."""
    return WantedCondition(SPEC_VALID, "False", reason, message)


def ready_pods(observed: Observed) -> int:
    """Replicas whose engine answers."""
    return sum(p.ready for p in observed.pods)


def _slices(observed: Observed) -> WantedCondition:
    wanted = observed.wanted
    if wanted == 0:
        return _zero(SLICES_ALLOCATED, observed, status="True")
    waiting = [p for p in observed.pods if not p.node and not p.failed]
    placed = [p for p in observed.pods if p.node and not p.failed]
    for pod in waiting:
        if pod.unplaced is not None:
            reason = "NoCapacity" if pod.unplaced.reason == "Unschedulable" else pod.unplaced.reason or "Unscheduled"
            return WantedCondition(SLICES_ALLOCATED, "False", reason, f"pod {pod.name}: {pod.unplaced.message}")
    if observed.state.failure:
        return WantedCondition(SLICES_ALLOCATED, "False", "PodsRefused", observed.state.failure)
    if len(placed) < wanted:
        return WantedCondition(
            SLICES_ALLOCATED, "False", "Pending", f"{counted(len(placed), 'replica', 'have', of=wanted)} a node"
        )
    return WantedCondition(SLICES_ALLOCATED, "True", "Allocated", f"{counted(len(placed), 'replica', 'have')} a slice")


def _engine(observed: Observed) -> WantedCondition:
    wanted = observed.wanted
    if wanted == 0:
        return _zero(ENGINE_READY, observed, status="False")
    ready = ready_pods(observed)
    trouble = next((t for p in observed.pods if (t := _trouble(p)) is not None), None)
    if ready:
        suffix = f"; {trouble.message}" if trouble else ""
        return WantedCondition(ENGINE_READY, "True", "Serving", f"{_answering(ready, wanted)}{suffix}")
    if trouble is not None:
        return trouble
    starting = next((p for p in observed.pods if p.node), None)
    if starting is not None:
        return WantedCondition(ENGINE_READY, "False", "Starting", _start(starting))
    return WantedCondition(ENGINE_READY, "False", "NotPlaced", "no engine runs yet")


def _answering(ready: int, wanted: int) -> str:
    """During a rollout there may be more than wanted."""
    return counted(ready, "engine", "answer", of=None if ready > wanted else wanted)


def _trouble(pod: PodView) -> WantedCondition | None:
    """What keeps one engine from answering, the most telling first."""
    if pod.ready or not pod.node:
        return None
    waiting, last = pod.waiting, pod.last_exit
    if pod.failed:
        return WantedCondition(ENGINE_READY, "False", "PodFailed", f"pod {pod.name}: {pod.message or 'failed'}")
    if waiting is not None and waiting.reason in _REFUSED:
        return WantedCondition(ENGINE_READY, "False", "RefusedByNode", f"pod {pod.name} on {pod.node}: {waiting.message}")
    if waiting is not None and waiting.reason in _PULLING:
        return WantedCondition(ENGINE_READY, "False", "ImagePull", f"pod {pod.name}: {_words(waiting)}")
    if last is not None:
        how = "was killed because it used too much memory" if last.reason == "OOMKilled" else f"ended with exit code {last.code}"
        reason = "OutOfMemory" if last.reason == "OOMKilled" else "CrashLoop"
        return WantedCondition(ENGINE_READY, "False", reason, f"pod {pod.name}: the engine {how}; see kubectl logs -p {pod.name}")
    if waiting is not None and waiting.reason not in _STARTING:
        return WantedCondition(ENGINE_READY, "False", waiting.reason, f"pod {pod.name}: {_words(waiting)}")
    return None


def _start(pod: PodView) -> str:
    """How far a replica without trouble is."""
    if pod.running:
        return f"pod {pod.name}: the engine has started and does not answer /health yet"
    if pod.waiting is not None and pod.waiting.reason:
        return f"pod {pod.name}: {_words(pod.waiting)}; the node pulls the image or sets up the container"
    return f"pod {pod.name}: node {pod.node} has not reported on the container yet"


def _words(waiting: Waiting) -> str:
    return f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason


def _routable(observed: Observed) -> WantedCondition:
    if observed.wanted == 0 and not cpu_serves(observed):
        return _zero(ROUTABLE, observed, status="False")
    if observed.router is None:
        return WantedCondition(ROUTABLE, "False", "NoRouter", "the router's Service does not exist or has no cluster IP")
    if not ready_pods(observed) and not cpu_serves(observed):
        return WantedCondition(ROUTABLE, "False", "NoReadyEngine", "no engine answers")
    # The bare model name may belong to an older service; the qualified one always leads here.
    meta = observed.service.metadata
    return WantedCondition(ROUTABLE, "True", "Routed", f"the router sends requests for {meta.namespace}/{meta.name} here")


def _ready(observed: Observed, parts: tuple[WantedCondition, ...]) -> WantedCondition:
    by_type = {c.type: c for c in parts}
    if observed.scaling is not None and observed.wanted == 0 and observed.router is not None:
        # Requests are held until a replica has come: this is service, not its absence.
        return _zero(READY, observed, status="True")
    if observed.wanted == 0 and not cpu_serves(observed):
        return _zero(READY, observed, status="False")
    if by_type[ROUTABLE].status != "True":
        # The first link of the chain that is broken is the one to read.
        cause = next(c for c in parts if c.status != "True")
        return WantedCondition(READY, "False", cause.reason, cause.message)
    wanted, ready = observed.wanted, ready_pods(observed)
    if not ready:
        return WantedCondition(READY, "True", "CPUOnly", _cpu_only(observed, by_type[ENGINE_READY]))
    why = _unfinished(observed, by_type[SLICES_ALLOCATED])
    if (progress := _progress(observed)) is not None:
        return WantedCondition(READY, "True", "Progressing", f"{progress}{why}")
    if ready < wanted:
        return WantedCondition(READY, "True", "Degraded", f"{_answering(ready, wanted)}{why}")
    return WantedCondition(READY, "True", "Serving", counted(ready, "engine", "answer"))


def _cpu_only(observed: Observed, engine: WantedCondition) -> str:
    """The CPU tier answers and no GPU engine does."""
    ready = counted(observed.cpu_state.ready, "CPU engine", "answer")
    return f"{ready}; {engine.message}"


def _progress(observed: Observed) -> str | None:
    """How far a rollout is, or None when it is done: a replica is replaced only once its successor answers."""
    state, wanted = observed.state, observed.wanted
    if not state.current:
        return "the rollout of this specification has not begun"
    if state.replicas > state.updated:
        old = counted(state.replicas - state.updated, "replica", "are", of=state.replicas)
        return f"{old} of an older specification"
    if state.updated < wanted:
        return f"{counted(state.updated, 'replica', 'are', of=wanted)} of this specification"
    return None


def _unfinished(observed: Observed, slices: WantedCondition) -> str:
    """What the replicas that do not answer wait for, to be appended; empty when nothing is known."""
    if slices.status != "True":
        return f"; {slices.message}"
    idle = [p for p in observed.pods if p.node and not p.ready]
    troubles = [t.message for p in idle if (t := _trouble(p)) is not None]
    found = troubles or [_start(p) for p in idle]
    return f"; {found[0]}" if found else ""


def _zero(kind: str, observed: Observed, *, status: str) -> WantedCondition:
    return WantedCondition(kind, "True" if status == "True" else "False", "ScaledToZero", _why_zero(observed))


def _why_zero(observed: Observed) -> str:
    meta = observed.service.metadata
    if observed.scaling is not None:
        return "nothing is asked of the model; the next request starts a replica and waits for it in the router"
    return f"spec.replicas is 0; start it with: kubectl -n {meta.namespace} scale minf {meta.name} --replicas=1"
