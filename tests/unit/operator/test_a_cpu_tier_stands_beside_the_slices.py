"""The CPU tier: its objects, that they are not mistaken for replicas on slices, and what the status says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_operator.core.decide import Plan
from mica_operator.core.views import Child, DeploymentState, Observed

Make = Callable[..., InferenceService]
PlanOf = Callable[[Observed], Plan]
The = Callable[[Plan, str], WantedCondition]
CarryOut = Callable[[Observed, Plan], Observed]


def _bodies(plan: Plan) -> dict[str, Any]:
    return {f"{body['kind']}/{body['metadata']['name']}": body for body in plan.apply}


def test_a_service_with_a_cpu_tier_has_two_of_each(service: Make, plan_of: PlanOf) -> None:
    bodies = _bodies(plan_of(Observed(service=service(cpu={"cores": 8, "memory": "16Gi", "replicas": 2}))))
    assert list(bodies) == ["Service/tiny-engine", "Deployment/tiny-engine", "Service/tiny-cpu", "Deployment/tiny-cpu"]
    cpu = bodies["Deployment/tiny-cpu"]
    assert cpu["spec"]["replicas"] == 2
    (container,) = cpu["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "8", "memory": "16Gi"}, "limits": {"memory": "16Gi"}}
    assert container["args"][-3:] == ["--metrics", "--threads", "8"]


def test_no_selector_of_one_tier_meets_pods_of_the_other(service: Make, plan_of: PlanOf) -> None:
    bodies = _bodies(plan_of(Observed(service=service(cpu={}))))
    pods = {
        tier: bodies[f"Deployment/tiny-{tier}"]["spec"]["template"]["metadata"]["labels"].items() for tier in ("engine", "cpu")
    }
    for tier, other in (("engine", "cpu"), ("cpu", "engine")):
        wanted = bodies[f"Service/tiny-{tier}"]["spec"]["selector"].items()
        assert wanted == bodies[f"Deployment/tiny-{tier}"]["spec"]["selector"]["matchLabels"].items()
        assert wanted <= pods[tier] and not wanted <= pods[other]


def test_the_router_finds_both_tiers_by_their_labels(service: Make, plan_of: PlanOf) -> None:
    bodies = _bodies(plan_of(Observed(service=service(cpu={}))))
    for name, tier in (("Service/tiny-engine", "gpu"), ("Service/tiny-cpu", "cpu")):
        labels = bodies[name]["metadata"]["labels"]
        assert (labels["mica.dev/inference-service"], labels["mica.dev/tier"]) == ("tiny", tier)


def test_a_cpu_engine_has_no_slice_and_runs_as_many_threads_as_cores(service: Make, plan_of: PlanOf) -> None:
    cpu = {
        "cores": 6,
        "engine": {"type": "vllm", "image": "x", "env": [{"name": "OMP_NUM_THREADS", "value": "3"}]},
        "uri": "file:///m/hf",
    }
    body = _bodies(plan_of(Observed(service=service(cpu=cpu))))["Deployment/tiny-cpu"]
    (container,) = body["spec"]["template"]["spec"]["containers"]
    assert "mica.dev" not in str(container["resources"])
    assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "3"}], "the user's own wins"
    assert container["args"][:2] == ["--model", "/m/hf"]


def test_the_tier_goes_when_it_is_no_longer_wanted(service: Make, plan_of: PlanOf, carry_out: CarryOut) -> None:
    observed = Observed(service=service(cpu={}))
    observed = carry_out(observed, plan_of(observed))
    assert plan_of(observed).apply == () == plan_of(observed).delete
    plan = plan_of(replace(observed, service=service()))
    assert [child.body["metadata"]["name"] for child in plan.delete] == ["tiny-cpu", "tiny-cpu"]
    foreign = Child(owner="somebody", applied="", body={"kind": "Service", "metadata": {"name": "tiny-cpu"}})
    plan = plan_of(replace(observed, service=service(), cpu_endpoint=foreign, cpu_deployment=None))
    assert plan.delete == ()


def test_a_name_that_somebody_took_is_told(service: Make, plan_of: PlanOf, the: The) -> None:
    foreign = Child(owner="", applied="", body={})
    plan = plan_of(Observed(service=service(cpu={}), cpu_deployment=foreign))
    assert plan.apply == () and "tiny-cpu exists and was not made by Mica" in the(plan, "SpecValid").message


@pytest.mark.parametrize("cpu_ready", [0, 1])
def test_a_service_on_cpus_alone_is_ready_and_says_so(
    observe: Callable[..., Observed], service: Make, plan_of: PlanOf, the: The, cpu_ready: int
) -> None:
    observed = replace(
        observe(1, service=service(cpu={})),
        pods=(),
        cpu_state=DeploymentState(current=True, replicas=1, updated=1, ready=cpu_ready),
    )
    plan = plan_of(observed)
    ready = the(plan, "Ready")
    assert (ready.status, ready.reason) == (("True", "CPUOnly") if cpu_ready else ("False", "Pending"))
    assert the(plan, "CPUReady").status == ("True" if cpu_ready else "False")
    assert plan.status.cpu_ready_replicas == cpu_ready


def test_a_tier_that_may_not_stand_in_does_not_make_a_service_ready(
    observe: Callable[..., Observed], service: Make, plan_of: PlanOf, the: The
) -> None:
    wanted = service(cpu={"when": {"noGPUReady": False}})
    plan = plan_of(replace(observe(1, service=wanted), pods=(), cpu_state=DeploymentState(ready=1)))
    assert the(plan, "Ready").status == "False"


def test_refused_pods_are_told_in_the_words_of_whoever_refused(service: Make, plan_of: PlanOf, the: The) -> None:
    plan = plan_of(Observed(service=service(cpu={}), cpu_state=DeploymentState(failure="exceeded quota")))
    assert the(plan, "CPUReady").reason == "PodsRefused" and "exceeded quota" in the(plan, "CPUReady").message


def test_without_a_cpu_tier_nothing_is_said_of_one(observe: Callable[..., Observed], plan_of: PlanOf) -> None:
    plan = plan_of(observe(1))
    assert "CPUReady" not in {c.type for c in plan.status.conditions}
    assert plan.status.cpu_ready_replicas is None
