from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_operator.core.decide import Plan
from mica_operator.core.views import Address, DeploymentState, Observed, read_deployment_state, read_pod, read_router

Make = Callable[..., InferenceService]
Observe = Callable[..., Observed]
PlanOf = Callable[[Observed], Plan]
The = Callable[[Plan, str], WantedCondition]
KINDS = ["SpecValid", "SlicesAllocated", "EngineReady", "Routable", "Ready"]


def _pod(*, node: str = "n1", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p0"}, "spec": {"nodeName": node} if node else {}, "status": status}


def _waiting(reason: str, message: str = "", **container: Any) -> dict[str, Any]:
    return _pod(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": reason, "message": message}}, **container}])


def test_everything_in_order_is_said_in_all_conditions(observe: Observe, plan_of: PlanOf) -> None:
    plan = plan_of(observe(2))
    assert [(c.type, c.status) for c in plan.status.conditions] == [(kind, "True") for kind in KINDS]
    assert plan.status.url == "http://10.0.0.7/v1"
    assert (plan.status.replicas, plan.status.ready_replicas) == (2, 2)
    assert plan.status.selector == "mica.dev/inference-service=tiny"


@pytest.mark.parametrize(
    ("pod", "kind", "reason", "words"),
    [
        (
            _pod(
                node="",
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "CardInsufficientMemory"}
                ],
            ),
            "SlicesAllocated",
            "NoCapacity",
            "pod p0: CardInsufficientMemory",
        ),
        (
            _pod(
                node="",
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulerError", "message": "extender"}],
            ),
            "SlicesAllocated",
            "SchedulerError",
            "pod p0: extender",
        ),
        (_pod(node=""), "SlicesAllocated", "Pending", "0 of 1 replica has a node"),
        (
            _waiting("CreateContainerConfigError", "mica: GPU-x is not on this node"),
            "EngineReady",
            "RefusedByNode",
            "pod p0 on n1: mica: GPU-x",
        ),
        (_waiting("ImagePullBackOff", "not found"), "EngineReady", "ImagePull", "pod p0: ImagePullBackOff: not found"),
        (_waiting("ContainerCreating"), "EngineReady", "Starting", "pod p0: ContainerCreating; the node pulls the image"),
        (_pod(phase="Pending"), "EngineReady", "Starting", "pod p0: node n1 has not reported on the container yet"),
        (
            _pod(phase="Running", containerStatuses=[{"state": {"running": {}}}]),
            "EngineReady",
            "Starting",
            "pod p0: the engine has started and does not answer /health yet",
        ),
        (
            _waiting("CrashLoopBackOff", "back-off", lastState={"terminated": {"exitCode": 3, "reason": "Error"}}),
            "EngineReady",
            "CrashLoop",
            "ended with exit code 3; see kubectl logs -p p0",
        ),
        (
            _waiting("CrashLoopBackOff", "back-off", lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            "EngineReady",
            "OutOfMemory",
            "used too much memory",
        ),
        (
            _pod(phase="Failed", message="UnexpectedAdmissionError"),
            "EngineReady",
            "PodFailed",
            "pod p0: UnexpectedAdmissionError",
        ),
        (_waiting("SomethingNew", "words"), "EngineReady", "SomethingNew", "pod p0: SomethingNew: words"),
    ],
)
def test_one_replica_in_trouble_is_named_with_its_reason(
    observe: Observe, plan_of: PlanOf, the: The, pod: dict[str, Any], kind: str, reason: str, words: str
) -> None:
    view = read_pod(pod)
    assert view is not None
    plan = plan_of(replace(observe(1), pods=(view,)))
    found = the(plan, kind)
    assert (found.status, found.reason) == ("False", reason)
    assert words in found.message
    assert the(plan, "Ready").status == "False"


def test_ready_gives_the_first_broken_link(observe: Observe, plan_of: PlanOf, the: The) -> None:
    view = read_pod(
        _pod(node="", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "shortage"}])
    )
    assert view is not None
    ready = the(plan_of(replace(observe(1), pods=(view,))), "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "NoCapacity", "pod p0: shortage")


def test_pods_that_may_not_be_made_are_explained_in_the_refusers_words(observe: Observe, plan_of: PlanOf, the: The) -> None:
    refused = replace(observe(1), pods=(), state=DeploymentState(current=True, failure="admission webhook denied: cores is 101"))
    found = the(plan_of(refused), "SlicesAllocated")
    assert (found.reason, found.message) == ("PodsRefused", "admission webhook denied: cores is 101")


def test_readiness_ends_when_the_last_engine_dies(observe: Observe, plan_of: PlanOf, the: The) -> None:
    observed = observe(1)
    assert the(plan_of(observed), "Ready").status == "True"
    dead = tuple(replace(p, ready=False) for p in observed.pods)
    plan = plan_of(replace(observed, pods=dead))
    assert the(plan, "Ready").status == "False"
    assert plan.status.ready_replicas == 0


def test_fewer_engines_than_wanted_serve_on_and_say_so(observe: Observe, plan_of: PlanOf, the: The) -> None:
    observed = observe(2)
    plan = plan_of(replace(observed, pods=observed.pods[:1]))
    ready = the(plan, "Ready")
    assert (ready.status, ready.reason) == ("True", "Degraded")
    assert "1 of 2 engines answer" in ready.message
    assert the(plan, "SlicesAllocated").status == "False"


def test_a_new_specification_that_cannot_start_is_told_while_the_old_one_serves(
    observe: Observe, plan_of: PlanOf, the: The
) -> None:
    old = observe(1)
    new = read_pod(_waiting("ImagePullBackOff", "not found"))
    assert new is not None
    # As the Deployment controller counts: the successor exists, so it is "updated", and the old pod stays until it answers.
    body = {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1}}
    ready = the(plan_of(replace(old, pods=(*old.pods, new), state=read_deployment_state(body))), "Ready")
    assert (ready.status, ready.reason) == ("True", "Progressing")
    assert ready.message == "1 of 2 replicas are of an older specification; pod p0: ImagePullBackOff: not found"


def test_a_replica_that_loads_is_named_while_another_serves(observe: Observe, plan_of: PlanOf, the: The) -> None:
    observed = observe(2)
    loading = replace(observed.pods[1], ready=False, running=True)
    ready = the(plan_of(replace(observed, pods=(observed.pods[0], loading))), "Ready")
    assert (ready.status, ready.reason) == ("True", "Degraded")
    assert ready.message == "1 of 2 engines answer; pod p1: the engine has started and does not answer /health yet"


def test_a_rollout_is_told_from_the_old_specification_serving(observe: Observe, plan_of: PlanOf, the: The) -> None:
    ready = the(plan_of(replace(observe(2), state=DeploymentState(current=False, updated=2))), "Ready")
    assert (ready.status, ready.reason) == ("True", "Progressing")


def test_zero_replicas_are_explained_with_the_command_that_starts_one(observe: Observe, plan_of: PlanOf, the: The) -> None:
    plan = plan_of(observe(0))
    ready = the(plan, "Ready")
    assert (ready.status, ready.reason) == ("False", "ScaledToZero")
    assert "kubectl -n ml scale minf tiny --replicas=1" in ready.message
    assert the(plan, "SlicesAllocated").status == "True"


@pytest.mark.parametrize(
    ("count", "slices", "engine", "ready"),
    [
        (1, "1 replica has a slice", "1 of 1 engine answers", "1 engine answers"),
        (2, "2 replicas have a slice", "2 of 2 engines answer", "2 engines answer"),
    ],
)
def test_one_is_counted_in_the_singular(
    observe: Observe, plan_of: PlanOf, the: The, count: int, slices: str, engine: str, ready: str
) -> None:
    plan = plan_of(observe(count))
    assert [the(plan, kind).message for kind in ("SlicesAllocated", "EngineReady", "Ready")] == [slices, engine, ready]


def test_more_engines_than_wanted_are_not_a_part_of_them(observe: Observe, plan_of: PlanOf, the: The) -> None:
    observed = observe(1)
    surge = replace(observed, pods=(*observed.pods, replace(observed.pods[0], name="p1")))
    assert the(plan_of(surge), "EngineReady").message == "2 engines answer"


def test_the_routed_name_is_the_one_that_no_other_service_can_own(
    service: Make, observe: Observe, plan_of: PlanOf, the: The
) -> None:
    named = service(model={"uri": "file:///m/tiny.gguf", "name": "shared"})
    routable = the(plan_of(observe(1, service=named)), "Routable")
    assert routable.message == "the router sends requests for ml/tiny here"


def test_without_a_router_nothing_is_routable(observe: Observe, plan_of: PlanOf, the: The) -> None:
    plan = plan_of(replace(observe(1), router=None))
    assert the(plan, "Routable").reason == "NoRouter"
    assert the(plan, "Ready").status == "False"
    assert plan.status.url is None


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("10.0.0.1", 80), "http://10.0.0.1/v1"),
        (Address("10.0.0.1", 8080), "http://10.0.0.1:8080/v1"),
        (Address("fd00::1", 80), "http://[fd00::1]/v1"),
        (Address("10.0.0.1", 443, "https"), "https://10.0.0.1/v1"),
        (Address("10.0.0.1", 80, "https"), "https://10.0.0.1:80/v1"),
    ],
)
def test_the_url_is_an_address(observe: Observe, plan_of: PlanOf, address: Address, url: str) -> None:
    assert plan_of(replace(observe(1), router=address)).status.url == url


@pytest.mark.parametrize(
    "pod",
    [
        {"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}},
        {"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}},
    ],
)
def test_pods_that_go_are_not_replicas(pod: dict[str, Any]) -> None:
    assert read_pod(pod) is None


def test_a_bound_pod_is_placed_whatever_the_scheduler_wrote_afterwards() -> None:
    """kube-scheduler writes PodScheduled=False on a bound pod when the reply to its bind was lost."""
    view = read_pod(_pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulerError"}]))
    assert view is not None
    assert view.unplaced is None


def test_a_headless_router_service_has_no_address() -> None:
    port = {"name": "http", "port": 443, "appProtocol": "https"}
    assert read_router({"spec": {"clusterIP": "10.1.1.1", "ports": [port]}}) == Address("10.1.1.1", 443, "https")
    assert read_router({"spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}}) is None
    assert read_router({"spec": {"clusterIP": "10.1.1.1", "ports": [{"name": "other", "port": 80}]}}) is None


@pytest.mark.parametrize("kind", KINDS[1:4])
def test_an_impossible_specification_leaves_the_rest_unknown(service: Make, the: The, kind: str) -> None:
    from mica_operator.core.decide import decide

    assert the(decide(Observed(service=service()), {}), kind).status == "Unknown"
