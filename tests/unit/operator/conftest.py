"""InferenceServices and the cluster around them, as values, and a cluster that carries plans out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_operator.core.decide import Plan, decide
from mica_operator.core.views import Address, DeploymentState, Observed, PodView, read_child

IMAGES: Mapping[str, str] = {"llamacpp": "localhost/llama:1", "vllm": "localhost/vllm:1"}
ROUTER = Address("10.0.0.7", 80)


def make_service(name: str = "tiny", *, uid: str = "u-1", **spec: Any) -> InferenceService:
    """A service with a slice of 20 % and 3 GiB, unless said otherwise."""
    body = {"model": {"uri": "file:///m/tiny.gguf"}, "slice": {"cores": 20, "memory": "3Gi"}, **spec}
    return InferenceService.model_validate(
        {"metadata": {"name": name, "namespace": "ml", "uid": uid, "generation": 1}, "spec": body}
    )


def carried_out(observed: Observed, plan: Plan) -> Observed:
    """What is observed after the plan was applied: what was asked for is stored, with defaults that nobody asked for."""
    for body in plan.apply:
        stored = read_child({**body, "spec": {**body["spec"], "defaulted": True}, "status": {}})
        field = "deployment" if body["kind"] == "Deployment" else "endpoint"
        field = f"cpu_{field}" if body["metadata"]["labels"]["mica.dev/tier"] == "cpu" else field
        observed = replace(observed, **{field: stored})
    return observed


def running(count: int, *, service: InferenceService | None = None) -> Observed:
    """All objects exist as wanted and ``count`` replicas answer."""
    service = service or make_service(replicas=count)
    pods = tuple(PodView(name=f"p{i}", node="n1", ready=True) for i in range(count))
    observed = Observed(
        service=service, router=ROUTER, pods=pods, state=DeploymentState(current=True, replicas=count, updated=count)
    )
    return carried_out(observed, decide(observed, IMAGES))


def condition(plan: Plan, kind: str) -> WantedCondition:
    """One condition of a plan's status."""
    (found,) = [c for c in plan.status.conditions if c.type == kind]
    return found


@pytest.fixture
def service() -> Callable[..., InferenceService]:
    return make_service


@pytest.fixture
def observe() -> Callable[..., Observed]:
    return running


@pytest.fixture
def carry_out() -> Callable[[Observed, Plan], Observed]:
    return carried_out


@pytest.fixture
def plan_of() -> Callable[[Observed], Plan]:
    return lambda observed: decide(observed, IMAGES)


@pytest.fixture
def the() -> Callable[[Plan, str], WantedCondition]:
    return condition
