"""Autoscaling as a pure step: up at once, down slowly, to zero only when idle, and nothing on missing numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_api.models.inference_service import AutoscalingSpec
from mica_operator.autoscaler import Autoscaler, DemandReport, Key
from mica_operator.core.autoscale import Bounds, Demand, Memory, after, step
from mica_operator.core.decide import Plan
from mica_operator.core.views import Observed, Scaling
from mica_operator.demand import RouterDemand, hosts_of
from mica_operator.demand import Routers as RouterPods
from mica_router.admin import build_admin
from mica_router.metrics import ModelDemand
from mica_runtime.kube import Unreachable

BOUNDS = Bounds(minimum=0, maximum=4, target=10, idle_s=60, window_s=30)


class Run:
    """One service through time, one look a second; replicas become ready after `start_s` seconds, unless they are `broken`."""

    def __init__(self, bounds: Bounds = BOUNDS, *, current: int = 0, ready: bool = True, start_s: int = 5) -> None:
        self.bounds = bounds
        self.current = current
        self.memory = Memory()
        self.now = 0.0
        self.broken = False
        self._born = [-1000.0 if ready else 0.0] * current
        self._start_s = start_s

    @property
    def ready(self) -> int:
        return 0 if self.broken else sum(self.now - born >= self._start_s for born in self._born)

    def look(self, demand: int | Demand | None, *, seconds: int = 1) -> int:
        asked = Demand(demand) if isinstance(demand, int) else demand
        for _ in range(seconds):
            self.now += 1
            self.memory, verdict = step(
                self.memory, self.bounds, current=self.current, ready=self.ready, demand=asked, now=self.now
            )
            self.memory = after(self.memory, before=self.current, verdict=verdict)
            self.current = verdict.replicas
            self._born = (self._born + [self.now] * self.current)[: self.current]
        return self.current


def test_the_first_request_wakes_a_service_at_zero_at_once() -> None:
    assert Run().look(Demand(0, 1)) == 1


def test_a_burst_is_met_at_once_and_never_beyond_the_maximum() -> None:
    run = Run(current=1)
    assert run.look(25) == 3
    assert run.look(500) == 4


def test_replicas_on_their_way_are_capacity_already() -> None:
    run = Run(current=1, start_s=600)
    assert [run.look(25) for _ in range(20)] == [3] * 20


def test_replicas_are_taken_away_one_per_window() -> None:
    run = Run(current=4)
    run.look(35)
    assert run.look(1, seconds=29) == 4
    counts = [run.look(1, seconds=10) for _ in range(12)]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1
    assert all(before - now <= 1 for before, now in pairwise(counts))


def test_a_short_lull_takes_nothing_away() -> None:
    run = Run(current=3)
    for _ in range(20):
        assert run.look(28, seconds=10) == 3
        assert run.look(2, seconds=10) == 3


def test_the_last_replica_goes_after_the_idle_time_and_not_before() -> None:
    run = Run(current=1)
    assert run.look(0, seconds=59) == 1
    assert run.look(1) == 1
    assert run.look(0, seconds=60) == 1
    assert run.look(0, seconds=2) == 0


def test_a_replica_that_was_never_ready_is_not_idle() -> None:
    run = Run(current=1, ready=False, start_s=10_000)
    assert run.look(0, seconds=5000) == 1


def test_a_replica_that_no_longer_answers_goes_after_the_idle_time_too() -> None:
    run = Run(current=2)
    run.look(2, seconds=10)
    run.broken = True
    assert run.look(0, seconds=59) == 1
    assert run.look(0, seconds=60) == 0


def test_a_replica_that_broke_while_it_was_asked_for_is_given_the_whole_idle_time() -> None:
    run = Run(current=1)
    run.look(1, seconds=10)
    run.broken = True
    assert run.look(1, seconds=500) == 1
    assert run.look(0, seconds=60) == 1
    assert run.look(0, seconds=2) == 0


def test_having_served_before_zero_takes_no_successor_away_before_it_is_ready() -> None:
    run = Run(current=1, start_s=900)
    assert run.look(0, seconds=62) == 0
    assert run.look(Demand(0, 1)) == 1
    assert run.look(0, seconds=800) == 1, "whoever asked gave up, and the model is still being loaded"


@pytest.mark.parametrize("demand", [None, Demand(0, 0, complete=False)])
def test_a_missing_number_is_not_zero(demand: Demand | None) -> None:
    run = Run(current=3)
    assert run.look(demand, seconds=500) == 3
    run.look(0, seconds=20)
    run.look(demand)
    assert run.look(0, seconds=29) == 3, "the window begins anew"


def test_an_incomplete_answer_can_still_ask_for_more() -> None:
    assert Run(current=1).look(Demand(25, 0, complete=False)) == 3


def test_without_a_minimum_of_zero_one_stays() -> None:
    assert Run(replace(BOUNDS, minimum=1), current=2).look(0, seconds=5000) == 1


@given(st.lists(st.integers(0, 80) | st.none(), max_size=80), st.integers(0, 3), st.integers(0, 4))
def test_the_bounds_hold_and_nothing_falls_by_more_than_one(asked: list[int | None], minimum: int, start: int) -> None:
    run = Run(replace(BOUNDS, minimum=minimum, idle_s=5, window_s=3), current=start)
    for demand in asked:
        before = run.current
        now = run.look(demand)
        assert minimum <= now <= 4
        assert now >= min(before, 4) - 1 or before < minimum
        if demand and demand > 0:
            assert now >= 1


class Routers:
    """Scripted router pods."""

    def __init__(self, answers: Mapping[str, bytes | Exception] | Unreachable, *, leaving: Sequence[str] = ()) -> None:
        self.answers = answers
        self.leaving = leaving
        self.fresh: list[bool] = []

    async def addresses(self, *, fresh: bool = False) -> RouterPods:
        self.fresh.append(fresh)
        if isinstance(self.answers, Unreachable):
            raise self.answers
        return RouterPods([each for each in self.answers if each not in self.leaving], self.leaving)

    async def fetch(self, url: str) -> bytes:
        assert not isinstance(self.answers, Unreachable)
        answer = self.answers[url.removeprefix("http://").removesuffix("/demand")]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(self) -> DemandReport | None:
        return await RouterDemand(self, self.fetch, owner={"chat": "ml/tiny", "ml/tiny": "ml/tiny"}.get).read()


ONE = b'{"models": {"chat": {"in_flight": 3.0, "queued": 1.0, "oldest_wait": 0.5}}}'
TWO = b"""{"models": {"chat": {"in_flight": 2, "queued": 0},
                      "ml/tiny": {"in_flight": 1, "queued": 1}}}"""


async def test_the_demand_of_all_routers_and_names_is_summed() -> None:
    report = await Routers({"10.0.0.1:8080": ONE, "10.0.0.2:8080": TWO}).read()
    assert report == DemandReport({("ml", "tiny"): (6, 2)}, complete=True)


async def test_the_operator_reads_what_the_router_really_writes() -> None:
    demand = {"chat": ModelDemand(in_flight=3, queued=1, oldest_wait=0.25)}
    client = TestClient(build_admin(registry=CollectorRegistry(), ready={}, demand=lambda: demand))
    report = await Routers({"10.0.0.1:8080": client.get("/demand").content}).read()
    assert report == DemandReport({("ml", "tiny"): (3, 1)}, complete=True)


@pytest.mark.parametrize("failure", [OSError("refused"), TimeoutError(), b"<html>", b'{"models": {"chat": {"queued": 1}}}'])
async def test_a_router_that_does_not_tell_makes_the_sum_a_lower_bound(failure: bytes | Exception) -> None:
    report = await Routers({"10.0.0.1:8080": ONE, "10.0.0.2:8080": failure}).read()
    assert report == DemandReport({("ml", "tiny"): (3, 1)}, complete=False)
    assert await Routers({"10.0.0.2:8080": failure}).read() is None


LEAVING = "10.0.0.9:8080"


async def test_what_a_leaving_router_still_works_on_belongs_to_the_sum() -> None:
    report = await Routers({"10.0.0.1:8080": ONE, LEAVING: TWO}, leaving=[LEAVING]).read()
    assert report == DemandReport({("ml", "tiny"): (6, 2)}, complete=True)


async def test_a_leaving_router_that_has_ended_lacks_nothing() -> None:
    report = await Routers({"10.0.0.1:8080": ONE, LEAVING: OSError("refused")}, leaving=[LEAVING]).read()
    assert report == DemandReport({("ml", "tiny"): (3, 1)}, complete=True)


async def test_leaving_routers_alone_do_not_tell_all() -> None:
    report = await Routers({LEAVING: ONE}, leaving=[LEAVING]).read()
    assert report == DemandReport({("ml", "tiny"): (3, 1)}, complete=False)


async def test_after_a_silence_the_routers_are_looked_up_anew() -> None:
    routers = Routers({"10.0.0.1:8080": ONE, "10.0.0.2:8080": OSError("refused")})
    demand = RouterDemand(routers, routers.fetch, owner={"chat": "ml/tiny"}.get)
    await demand.read()
    routers.answers = {"10.0.0.1:8080": ONE}
    assert await demand.read() == DemandReport({("ml", "tiny"): (3, 1)}, complete=True)
    await demand.read()
    assert routers.fresh == [False, True, False]


def test_routers_are_told_apart_by_their_conditions() -> None:
    def endpoint(host: str, **conditions: bool) -> dict[str, Any]:
        return {"addresses": [host], "conditions": conditions}

    first = [
        endpoint("1", ready=True, serving=True, terminating=False),
        endpoint("2", ready=False, serving=False, terminating=True),
        endpoint("3", ready=False, serving=True, terminating=True),
        endpoint("4", ready=False, serving=False, terminating=False),
        {"addresses": ["5"]},
    ]
    second = [endpoint("1", ready=False, terminating=True), {"addresses": [], "conditions": {"ready": True}}]
    assert hosts_of({"items": [{"endpoints": first}, {"endpoints": second}, {"endpoints": None}]}) == (["1", "5"], ["2", "3"])


@pytest.mark.parametrize("answers", [{}, Unreachable("away")])
async def test_without_any_router_nothing_is_known(answers: Mapping[str, bytes | Exception] | Unreachable) -> None:
    assert await Routers(answers).read() is None


SPEC = AutoscalingSpec.model_validate({"min": 0, "max": 3, "target": {"inflight": 2}, "idleTimeout": "10s"})
KEY: Key = ("ml", "tiny")


def test_a_change_of_mind_wakes_the_service_and_nothing_else_does() -> None:
    now, woken = [0.0], list[Key]()
    scaler = Autoscaler(Routers({}), clock=lambda: now[0], wake=woken.append)
    assert scaler.scaling(KEY, SPEC, current=None, ready=0) == Scaling(0, "", "no router has told it yet")
    scaler.look(DemandReport({KEY: (0, 3)}))
    scaler.look(DemandReport({KEY: (0, 3)}))
    assert woken == [KEY]
    found = scaler.scaling(KEY, SPEC, current=0, ready=0)
    assert found is not None and (found.replicas, found.stale) == (2, "")
    scaler.look(None)
    assert woken == [KEY, KEY]
    found = scaler.scaling(KEY, SPEC, current=2, ready=2)
    assert found is not None and (found.replicas, found.stale) == (2, "no router answers")


def test_a_process_that_begins_takes_over_what_runs() -> None:
    scaler = Autoscaler(Routers({}), clock=lambda: 0.0, wake=lambda key: None)
    found = scaler.scaling(KEY, SPEC, current=3, ready=3)
    assert found is not None and found.replicas == 3
    assert scaler.scaling(KEY, None, current=3, ready=3) is None


def test_at_zero_the_service_is_ready_and_says_that_it_sleeps(
    observe: Callable[..., Observed],
    service: Callable[..., InferenceService],
    plan_of: Callable[[Observed], Plan],
    the: Callable[[Plan, str], WantedCondition],
) -> None:
    wanted = service(autoscaling={"min": 0, "max": 2})
    plan = plan_of(replace(observe(0, service=wanted), scaling=Scaling(0, "idle")))
    assert [the(plan, kind).status for kind in ("Ready", "ScaledToZero", "AutoscalingActive")] == ["True"] * 3
    assert "the next request starts a replica" in the(plan, "Ready").message
    plan = plan_of(replace(observe(0, service=wanted), scaling=Scaling(2, "", "no router answers")))
    (deployment,) = [body for body in plan.apply if body["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 2 == plan.status.desired_replicas
    assert the(plan, "AutoscalingActive").reason == "DemandUnknown"
