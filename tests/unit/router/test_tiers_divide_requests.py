"""Deciding between the GPU and the CPU tier: modes, saturation, predicted times, rules that fall back, and what is explained."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Tier
from mica_router.core.facts import RequestFacts
from mica_router.core.rates import Line, Rates
from mica_router.core.routing import CpuUse, Routing
from mica_router.core.rules import parse_rules
from mica_router.core.tiers import CPU, GPU, EngineView, TierView, tier_view
from mica_router.core.tiers_decide import Placement, Reason, Tiers, decide, decide_again, forecast
from mica_router.core.tiers_explain import explain_placement

GPU_THEN_CPU: tuple[Tier, ...] = (GPU, CPU)
CPU_THEN_GPU: tuple[Tier, ...] = (CPU, GPU)


def request(*, path: str = "/v1/chat/completions", **fields: Any) -> RequestFacts:
    return RequestFacts(path=path, body=msgspec.json.encode(fields))


def engine(in_flight: int = 0, *, capacity: int = 4, gauges: EngineGauges | None = None) -> EngineView:
    return EngineView(in_flight=in_flight, capacity=capacity, gauges=gauges)


def rates(*, prefill: float, token: float, output: float = 100) -> Rates:
    """Seconds per prompt token and per token."""
    found = Rates()
    found.saw_prompt(tokens=1000, seconds=1000 * prefill)
    found.saw_tokens(concurrency=1, seconds_per_token=token)
    found.saw_answer(tokens=output)
    return found


def tiers(
    gpu: list[EngineView], cpu: list[EngineView], *, gpu_rates: Rates | None = None, cpu_rates: Rates | None = None
) -> Tiers:
    return Tiers(gpu=tier_view(gpu), cpu=tier_view(cpu), gpu_rates=gpu_rates or Rates(), cpu_rates=cpu_rates or Rates())


FULL = [engine(4)]
IDLE = [engine(0)]
SHORT = request(max_tokens=64)


def place(policy: Routing, found: Tiers, facts: RequestFacts = SHORT, *, continuable: bool = False) -> Placement:
    return decide(policy, facts, found, continuable=continuable)


def test_an_idle_gpu_takes_it_and_the_cpu_is_the_second_choice() -> None:
    placed = place(Routing(), tiers(IDLE, IDLE))
    assert placed == Placement(tiers=GPU_THEN_CPU, reason=Reason.GPU_FREE)


def test_a_saturated_gpu_overflows_to_a_cpu_that_has_room() -> None:
    placed = place(Routing(), tiers(FULL, IDLE))
    assert placed == Placement(tiers=CPU_THEN_GPU, reason=Reason.GPU_SATURATED)


def test_nothing_overflows_to_a_full_cpu() -> None:
    assert place(Routing(), tiers(FULL, FULL)).reason is Reason.CPU_FULL


@pytest.mark.parametrize("facts", [request(max_tokens=257), request(), request(max_tokens="many")])
def test_a_long_or_unlimited_answer_does_not_overflow(facts: RequestFacts) -> None:
    assert place(Routing(cpu=CpuUse(max_output_tokens=256)), tiers(FULL, IDLE), facts).reason is Reason.ANSWER_TOO_LONG
    assert place(Routing(cpu=CpuUse(max_output_tokens=0)), tiers(FULL, IDLE), facts).tiers == CPU_THEN_GPU


def test_what_generates_nothing_is_always_short() -> None:
    placed = place(Routing(cpu=CpuUse(max_output_tokens=1)), tiers(FULL, IDLE), request(path="/v1/embeddings"))
    assert placed.tiers == CPU_THEN_GPU


def test_a_cpu_that_would_finish_later_than_a_queueing_gpu_gets_nothing() -> None:
    quick = rates(prefill=1e-5, token=0.01)
    slow, fair = rates(prefill=1e-3, token=0.5), rates(prefill=1e-5, token=0.011)
    policy = Routing()
    assert place(policy, tiers(FULL, IDLE, gpu_rates=quick, cpu_rates=slow)).reason is Reason.GPU_SOONER
    queue = [engine(40)]
    assert place(policy, tiers(queue, IDLE, gpu_rates=quick, cpu_rates=fair)).tiers == CPU_THEN_GPU


def test_as_long_as_nothing_was_learned_saturation_alone_decides() -> None:
    assert place(Routing(), tiers(FULL, IDLE, gpu_rates=rates(prefill=0, token=0.01))).tiers == CPU_THEN_GPU


def test_standby_answers_only_while_no_gpu_is_ready() -> None:
    policy = Routing(cpu=CpuUse(mode="standby"))
    assert place(policy, tiers(FULL, IDLE)).tiers == GPU_THEN_CPU
    assert place(policy, tiers([], FULL)) == Placement(tiers=(CPU,), reason=Reason.NO_GPU)


def test_without_the_right_to_stand_in_the_cpu_stays_out() -> None:
    policy = Routing(cpu=CpuUse(no_gpu_ready=False))
    assert place(policy, tiers([], IDLE)) == Placement(tiers=(), reason=Reason.NONE_READY)
    assert place(policy, tiers(IDLE, IDLE)).tiers == (GPU,)


def test_relay_begins_on_the_gpu_and_names_where_the_cpu_goes_on() -> None:
    policy = Routing(cpu=CpuUse(mode="relay", relay_after=24))
    placed = place(policy, tiers(FULL, IDLE), continuable=True)
    assert placed.tiers == GPU_THEN_CPU and placed.relay_after == 24
    assert place(policy, tiers(IDLE, IDLE), continuable=True).relay_after == 0
    assert place(policy, tiers(FULL, FULL), continuable=True).relay_after == 0


def test_what_cannot_be_relayed_overflows() -> None:
    policy = Routing(cpu=CpuUse(mode="relay", relay_after=24))
    assert place(policy, tiers(FULL, IDLE)) == place(Routing(), tiers(FULL, IDLE))
    assert place(policy, tiers(FULL, IDLE), request(max_tokens=24), continuable=True).relay_after == 0
    assert place(policy, tiers(FULL, IDLE), request(max_tokens=25), continuable=True).relay_after == 24


def test_a_leg_is_followed_on_the_cpu_while_the_gpu_is_saturated_and_the_cpu_is_not() -> None:
    policy = Routing(cpu=CpuUse(mode="relay"))
    assert decide_again(policy, tiers(FULL, IDLE)) == Placement(tiers=(CPU, GPU), reason=Reason.GPU_SATURATED)
    assert decide_again(policy, tiers(IDLE, IDLE)) == Placement(tiers=GPU_THEN_CPU, reason=Reason.GPU_FREE)
    assert decide_again(policy, tiers(FULL, FULL)) == Placement(tiers=GPU_THEN_CPU, reason=Reason.CPU_FULL)


def rule(device: str) -> Routing:
    raw = [{"name": "small", "conditions": {"max_tokens": {"lte": 64}}, "action": {"device": device}}]
    return Routing(rules=parse_rules(raw))


def test_a_rule_precedes_metrics_and_yields_where_its_tier_is_full() -> None:
    assert place(rule("CPU"), tiers(IDLE, IDLE)) == Placement(tiers=CPU_THEN_GPU, reason=Reason.RULE, rule="small")
    assert place(rule("CPU"), tiers(IDLE, FULL)).reason is Reason.GPU_FREE
    assert place(rule("GPU"), tiers(FULL, IDLE)).reason is Reason.GPU_SATURATED
    assert place(rule("CPU"), tiers(IDLE, [])).tiers == (GPU,)


def test_a_full_cache_saturates_a_tier_that_has_room() -> None:
    hot, cold = EngineGauges(age=0, kv_percent=95), EngineGauges(age=0, kv_percent=10)
    policy = Routing(cpu=CpuUse(gpu_kv_percent=90))
    assert place(policy, tiers([engine(gauges=hot)], IDLE)).tiers == CPU_THEN_GPU
    assert place(policy, tiers([engine(gauges=hot), engine(capacity=40, gauges=cold)], IDLE)).reason is Reason.GPU_FREE


def test_saturation_is_weighted_by_capacity() -> None:
    small, large = engine(2, capacity=2), engine(0, capacity=98)
    assert tier_view([small, large]).saturation == pytest.approx(0.02)
    assert not tier_view([small, large]).full


def test_an_engine_that_lets_requests_wait_has_no_room_whatever_its_capacity() -> None:
    view = tier_view([engine(3, capacity=256, gauges=EngineGauges(age=0, running=3, waiting=2))])
    assert view.full and view.waiting == 2


def test_stale_numbers_are_unknown_and_not_zero() -> None:
    view = tier_view([engine(3)])
    assert (view.busy, view.kv_percent, view.waiting) == (3, None, 0)


@pytest.mark.parametrize(("threshold", "in_flight", "reason"), [(3, 4, Reason.GPU_FREE), (3, 6, Reason.GPU_SATURATED)])
def test_more_than_one_may_have_to_wait_before_the_gpu_counts_as_saturated(
    threshold: int, in_flight: int, reason: Reason
) -> None:
    assert place(Routing(cpu=CpuUse(gpu_waiting=threshold)), tiers([engine(in_flight)], IDLE)).reason is reason


Views = st.builds(
    EngineView,
    in_flight=st.integers(0, 600),
    capacity=st.integers(1, 256),
    gauges=st.none()
    | st.builds(
        EngineGauges,
        age=st.just(0.0),
        running=st.none() | st.integers(0, 300),
        waiting=st.none() | st.integers(0, 300),
        kv_percent=st.none() | st.floats(0, 100),
    ),
)
Policies = st.builds(
    CpuUse,
    mode=st.sampled_from(["overflow", "relay", "standby"]),
    gpu_kv_percent=st.floats(0, 100),
    gpu_waiting=st.integers(1, 50),
    no_gpu_ready=st.booleans(),
    max_output_tokens=st.integers(0, 4096),
)


@given(Policies, st.lists(Views, max_size=4), st.lists(Views, max_size=4), st.integers(0, 5000), st.booleans())
def test_every_request_has_a_place_while_one_may_take_it(
    cpu_use: CpuUse, gpu: list[EngineView], cpu: list[EngineView], limit: int, continuable: bool
) -> None:
    policy = Routing(cpu=cpu_use)
    found = tiers(gpu, cpu, gpu_rates=rates(prefill=1e-4, token=0.01), cpu_rates=rates(prefill=1e-3, token=0.1))
    facts = request(max_tokens=limit)
    placed = decide(policy, facts, found, continuable=continuable)
    usable = bool(gpu) or (bool(cpu) and cpu_use.no_gpu_ready)
    assert bool(placed.tiers) == usable
    assert all(found.view(tier).ready for tier in placed.tiers[:1])
    assert len(set(placed.tiers)) == len(placed.tiers)
    assert placed.relay_after == 0 or (continuable and cpu_use.mode == "relay")
    explained = explain_placement(policy, facts, found, placed)
    assert msgspec.json.decode(msgspec.json.encode(explained))["tiers"] == list(placed.tiers)


@given(st.lists(Views, min_size=1, max_size=5))
def test_sums_of_a_tier_stay_within_their_bounds(engines: list[EngineView]) -> None:
    view = tier_view(engines)
    assert 0 <= view.free <= view.capacity
    assert view.kv_percent is None or 0 <= view.kv_percent <= 100.0001
    assert view.busy >= view.in_flight


@given(st.integers(0, 500), st.integers(0, 5000))
def test_a_longer_queue_never_finishes_earlier(busy: int, limit: int) -> None:
    known = rates(prefill=1e-4, token=0.02)
    before = TierView(engines=1, busy=busy, capacity=8, free=max(8 - busy, 0), waiting=max(busy - 8, 0))
    after = before._replace(busy=busy + 1, free=max(7 - busy, 0), waiting=max(busy - 7, 0))
    sooner, later = (forecast(view, known, request(max_tokens=limit)) for view in (before, after))
    assert sooner is not None and later is not None and later.finish >= sooner.finish


@given(st.floats(0, 5), st.floats(0, 1), st.lists(st.floats(0, 64), min_size=3, max_size=50))
def test_a_line_is_found_again(intercept: float, slope: float, xs: list[float]) -> None:
    line = Line()
    for x in xs:
        line.add(x, intercept + slope * x)
    middle = sum(xs) / len(xs)
    low, high = line.at(0.0), line.at(100.0)
    assert low is not None and high is not None and 0 <= low <= high + 1e-9
    if max(xs) - min(xs) > 8:
        assert line.at(middle) == pytest.approx(intercept + slope * middle, rel=0.05, abs=0.05)


def test_a_tier_that_changes_is_learned_anew() -> None:
    line = Line()
    for seconds in (*[1.0] * 500, *[0.1] * 1000):
        line.add(1.0, seconds)
    assert line.at(1.0) == pytest.approx(0.1, rel=0.02)


def test_nonsense_is_not_learned() -> None:
    line = Line()
    for x, y in ((float("nan"), 1.0), (1.0, float("nan")), (-1.0, 1.0), (1.0, -1.0), (1.0, float("inf"))):
        line.add(x, y)
    assert line.at(1.0) is None


def test_the_answer_of_explain_says_what_a_rule_lacks() -> None:
    policy, found, facts = rule("CPU"), tiers(IDLE, FULL), request(max_tokens=65)
    explained = explain_placement(policy, facts, found, decide(policy, facts, found))
    (told,) = explained["rules"]
    assert told["matches"] is False and told["unmet"] == ["max_tokens lte 64"] and told["tierFull"] is True
    assert explained["gpu"]["free"] == 4 and explained["words"] == "the GPU tier is not saturated"
