"""sysHAX's two decision rules as tables of its documented behaviour."""

from __future__ import annotations

import pytest

from mica_router.core.choice import EngineGauges
from mica_router.core.facts import RequestFacts
from mica_router.core.rates import Rates
from mica_router.core.routing import CpuUse, Routing
from mica_router.core.rules import parse_rules
from mica_router.core.syshax import Decider, ThresholdDecider, ThroughputDecider
from mica_router.core.tiers import EngineView, tier_view
from mica_router.core.tiers_decide import Reason, Tiers

BUSY = "busy"


def both(gpu: EngineView | None, cpu: EngineView | None) -> Tiers:
    views = [tier_view([] if engine is None else [engine]) for engine in (gpu, cpu)]
    return Tiers(gpu=views[0], cpu=views[1], gpu_rates=Rates(), cpu_rates=Rates())


def engine(running: int = 0, *, waiting: int = 0, cache: float | None = None, tps: float | None = None) -> EngineView:
    gauges = EngineGauges(
        age=0, running=running, waiting=waiting, kv_percent=None if cache is None else cache * 100, generation_rate=tps
    )
    return EngineView(in_flight=running + waiting, capacity=256, gauges=gauges)


def first(decider: Decider, tiers: Tiers) -> str:
    placed = decider.place(Routing(), RequestFacts(path="/v1/completions", body=b"{}"), tiers)
    assert placed.tiers or placed.reason in (Reason.BUSY, Reason.NONE_READY)
    return placed.tiers[0] if placed.tiers else BUSY


@pytest.mark.parametrize(
    ("gpu", "cpu", "device"),
    [
        (engine(255), engine(), "gpu"),
        (engine(256), engine(tps=50), "cpu"),
        (engine(1, cache=0.90), engine(), "gpu"),
        (engine(1, cache=0.91), engine(tps=50), "cpu"),
        (engine(1, cache=0.91), engine(0, tps=9), "cpu"),
        (engine(1, cache=0.91), engine(1, tps=9), BUSY),
        (engine(1, cache=0.91), engine(1, tps=10), "cpu"),
        (engine(1, cache=0.91), engine(1), "cpu"),
        (engine(1, cache=0.91), engine(256, tps=500), BUSY),
        (engine(1, waiting=5), engine(), "gpu"),
    ],
)
def test_generation_one_compares_metrics_with_thresholds(gpu: EngineView, cpu: EngineView, device: str) -> None:
    assert first(ThresholdDecider(), both(gpu, cpu)) == device


@pytest.mark.parametrize(("running", "waiting", "device"), [(1, 1, "cpu"), (1, 0, "gpu"), (0, 1, "gpu")])
def test_without_a_maximum_a_waiting_request_makes_the_gpu_busy(running: int, waiting: int, device: str) -> None:
    assert first(ThresholdDecider(max_num_seqs=None), both(engine(running, waiting=waiting), engine(tps=50))) == device


@pytest.mark.parametrize(
    ("gpu", "cpu", "device"),
    [
        (engine(0), engine(7), "gpu"),
        (engine(1), engine(0), "cpu"),
        (engine(9, tps=1), engine(20, tps=900), "gpu"),
        (engine(3), engine(2), "cpu"),
        (engine(2), engine(2), "gpu"),
        (engine(4, tps=100), engine(2, tps=40), "gpu"),
        (engine(10, tps=100), engine(2, tps=40), "cpu"),
        (engine(4, tps=80), engine(2, tps=40), "gpu"),
    ],
)
def test_generation_two_compares_counts_and_speeds(gpu: EngineView, cpu: EngineView, device: str) -> None:
    assert first(ThroughputDecider(), both(gpu, cpu)) == device


def test_the_batch_of_the_cpu_can_be_set() -> None:
    assert first(ThroughputDecider(cpu_max_batch_size=1), both(engine(9), engine(1))) == "gpu"


@pytest.mark.parametrize("decider", [ThresholdDecider(), ThroughputDecider()])
def test_rules_and_missing_tiers_come_first(decider: Decider) -> None:
    facts = RequestFacts(path="/v1/completions", body=b'{"stream":true}')
    rules = parse_rules([{"name": "r", "conditions": {"stream": {"eq": True}}, "action": {"device": "CPU"}}])
    placed = decider.place(Routing(rules=rules), facts, both(engine(0), engine(3)))
    assert placed.tiers[0] == "cpu" and placed.rule == "r"
    full = EngineView(in_flight=256, capacity=256)
    assert decider.place(Routing(rules=rules), facts, both(engine(0), full)).tiers[0] == "gpu"
    assert decider.place(Routing(), facts, both(None, engine(1))).tiers == ("cpu",)
    assert decider.place(Routing(), facts, both(None, None)).tiers == ()


def test_what_was_learned_stands_in_for_a_throughput_that_engines_no_longer_tell() -> None:
    slow = Rates()
    slow.saw_tokens(concurrency=1, seconds_per_token=0.5)
    tiers = both(engine(1, cache=0.95), engine(1))
    placed = ThresholdDecider().place(
        Routing(),
        RequestFacts(path="/v1/completions", body=b"{}"),
        Tiers(gpu=tiers.gpu, cpu=tiers.cpu, gpu_rates=Rates(), cpu_rates=slow),
    )
    assert placed.reason is Reason.BUSY


@pytest.mark.parametrize(("tps", "limit"), [(0.0, 10), (4.0, 20), (11.0, 40), (1000.0, 100)])
def test_the_token_limit_follows_the_cpu_throughput(tps: float, limit: int) -> None:
    assert ThresholdDecider().token_limit(tps) == limit


def test_a_stream_that_is_relayed_begins_on_the_gpu_and_hops_on_the_cpu() -> None:
    decider, routing = ThresholdDecider(max_num_seqs=4), Routing(cpu=CpuUse(mode="relay", relay_after=8))
    busy, idle = both(engine(4), engine(1, tps=11)), both(engine(1), engine(1, tps=11))
    begun = decider.place(routing, RequestFacts(path="/v1/chat/completions", body=b"{}"), busy, continuable=True)
    assert (begun.tiers, begun.relay_after) == (("gpu", "cpu"), 8)
    assert decider.place(routing, RequestFacts(path="/v1/chat/completions", body=b"{}"), busy).tiers == ("cpu", "gpu")
    hop = decider.place_again(routing, busy)
    assert (hop.tiers, hop.relay_after) == (("cpu", "gpu"), 40)
    back = decider.place_again(routing, idle)
    assert (back.tiers, back.relay_after) == (("gpu", "cpu"), 0)
    assert decider.place_again(routing, both(engine(4), engine(4, tps=11))).tiers == ("gpu", "cpu")
