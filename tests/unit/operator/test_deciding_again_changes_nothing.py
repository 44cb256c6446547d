from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.models import InferenceService
from mica_operator.core.decide import Plan, decide
from mica_operator.core.views import Address, Child, Observed, read_child

Make = Callable[..., InferenceService]
Observe = Callable[..., Observed]
PlanOf = Callable[[Observed], Plan]
IMAGES: Mapping[str, str] = {"llamacpp": "l", "vllm": "v"}

_text = st.text("abc", min_size=1, max_size=5)
_specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({"uri": _text.map("file:///{}".format)}),
        "engine": st.fixed_dictionaries(
            {"type": st.sampled_from(["llamacpp", "vllm"]), "port": st.integers(1, 65535)},
            optional={
                "args": st.lists(_text, max_size=3),
                "env": st.lists(_text, unique=True, max_size=3).map(lambda n: [{"name": x} for x in n]),
            },
        ),
        "slice": st.fixed_dictionaries(
            {"number": st.integers(1, 4)}, optional={"cores": st.integers(1, 100), "memory": st.just("3Gi")}
        ),
        "replicas": st.integers(0, 3),
    },
    optional={"placement": st.just({"nodeSelector": {"gpu": "yes"}})},
)


def _stored(body: dict[str, Any]) -> Child | None:
    return read_child({**body, "spec": {**body["spec"], "defaulted": 1}})


def _make(spec: dict[str, Any]) -> InferenceService:
    return InferenceService.model_validate({"metadata": {"name": "s", "namespace": "n", "uid": "u"}, "spec": spec})


def _apply(observed: Observed, plan: Plan) -> Observed:
    children = {"Deployment": observed.deployment, "Service": observed.endpoint}
    children |= {body["kind"]: _stored(body) for body in plan.apply}
    return replace(observed, deployment=children["Deployment"], endpoint=children["Service"])


@given(_specs, _specs)
def test_applying_a_plan_leaves_nothing_to_apply_from_any_earlier_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    observed = Observed(service=_make(first), router=Address("10.0.0.1", 80))
    observed = _apply(observed, decide(observed, IMAGES))
    assert decide(observed, IMAGES).apply == ()
    changed = replace(observed, service=_make(second))
    plan = decide(changed, IMAGES)
    assert decide(_apply(changed, plan), IMAGES).apply == ()


def test_a_new_service_gets_its_service_and_its_deployment(service: Make, plan_of: PlanOf) -> None:
    assert [b["kind"] for b in plan_of(Observed(service=service())).apply] == ["Service", "Deployment"]


def test_a_field_that_somebody_changed_is_put_back(observe: Observe, plan_of: PlanOf) -> None:
    observed = observe(1)
    assert observed.deployment is not None
    body = {**observed.deployment.body, "spec": {**observed.deployment.body["spec"], "replicas": 5}}
    (again,) = plan_of(replace(observed, deployment=read_child(body))).apply
    assert again["spec"]["replicas"] == 1


def with_limits(child: Child, limits: dict[str, str]) -> Child | None:
    body = deepcopy(dict(child.body))
    body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = limits
    return read_child(body)


@pytest.mark.parametrize(
    ("memory", "again"), [("3000", False), ("3k", False), ("3e3", False), ("4k", True), ("3Ki", True), ("3000m", True)]
)
def test_amounts_are_compared_and_not_how_they_are_written(
    observe: Observe, service: Make, plan_of: PlanOf, memory: str, again: bool
) -> None:
    observed = observe(1, service=service(slice={"cores": 20, "memory": "3000Mi"}))
    assert observed.deployment is not None
    wanted = observed.deployment.body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    ((name, stated),) = [(name, amount) for name, amount in wanted.items() if amount == "3000"]
    assert stated == "3000"
    stored = with_limits(observed.deployment, {**wanted, name: memory})
    assert bool(plan_of(replace(observed, deployment=stored)).apply) is again


def test_what_others_add_is_left_alone(observe: Observe, plan_of: PlanOf) -> None:
    observed = observe(1)
    assert observed.endpoint is not None
    metadata = {**observed.endpoint.body["metadata"], "finalizers": ["other/thing"]}
    assert plan_of(replace(observed, endpoint=read_child({**observed.endpoint.body, "metadata": metadata}))).apply == ()


def test_a_field_that_is_no_longer_wanted_is_taken_away(observe: Observe, service: Make, plan_of: PlanOf) -> None:
    observed = observe(1, service=service(placement={"nodeSelector": {"a": "b"}}))
    (body,) = plan_of(replace(observed, service=service())).apply
    assert "nodeSelector" not in body["spec"]["template"]["spec"]


@pytest.mark.parametrize("which", ["deployment", "endpoint"])
def test_an_object_of_somebody_else_is_not_touched(observe: Observe, plan_of: PlanOf, which: str) -> None:
    foreign = replace(observe(1), **{which: Child(owner="", applied="", body={})})
    plan = plan_of(foreign)
    assert plan.apply == ()
    ready = plan.status.conditions[-1]
    assert (ready.status, ready.reason) == ("False", "NameTaken")
    assert "was not made by Mica" in ready.message


def test_children_of_a_deleted_namesake_are_waited_for(observe: Observe, plan_of: PlanOf) -> None:
    plan = plan_of(replace(observe(1), deployment=Child(owner="u-0", applied="", body={})))
    assert plan.apply == ()
    assert "if that is being deleted this passes" in plan.status.conditions[-1].message


def test_a_type_without_an_image_names_both_ways_to_give_one(service: Make) -> None:
    plan = decide(Observed(service=service(engine={"type": "vllm"})), {})
    assert plan.apply == ()
    ready = plan.status.conditions[-1]
    assert ready.reason == "NoEngineImage"
    assert "spec.engine.image" in ready.message
    assert "engines.vllm.image" in ready.message
