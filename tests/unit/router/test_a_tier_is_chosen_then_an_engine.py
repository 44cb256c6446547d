"""Choosing through both steps: tier, then policy; what is ejected or stale; what the account of a choice says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from mica_router.core.choice import EngineGauges, Hold, Pick, Refusal
from mica_router.core.engines import Endpoint, Engine, Tier
from mica_router.core.features import Features
from mica_router.core.routes import Route, Service, ServiceKey
from mica_router.core.routing import CpuUse, DeciderUse, Routing
from mica_router.core.rules import parse_rules
from mica_router.core.syshax import ThresholdDecider
from mica_router.core.tier_chooser import TierChooser, needs_metrics


@dataclass
class Numbers:
    """A LoadView of given numbers."""

    busy: dict[Endpoint, int] = field(default_factory=dict)
    said: dict[Endpoint, EngineGauges] = field(default_factory=dict)
    unfit: dict[Endpoint, float] = field(default_factory=dict)
    turns: int = 0
    waiting: int = 0

    @property
    def fitness(self) -> Mapping[Endpoint, float]:
        return self.unfit

    def in_flight(self, endpoint: Endpoint) -> int:
        return self.busy.get(endpoint, 0)

    def gauges(self, endpoint: Endpoint) -> EngineGauges | None:
        return self.said.get(endpoint)

    def held(self, key: ServiceKey) -> int:
        return self.waiting

    def turn(self) -> int:
        self.turns += 1
        return self.turns

    def random(self) -> float:
        return 0.5


def engine(number: int, tier: Tier = "gpu", *, room: int = 2) -> Engine:
    return Engine(endpoint=Endpoint("10.0.0.1", number), tier=tier, kind="vllm", max_in_flight=room)


G1, G2, C1, C2 = engine(1), engine(2), engine(3, "cpu"), engine(4, "cpu")
ALL = (G1, G2, C1, C2)


def features(*, engines: tuple[Engine, ...] = ALL, routing: Routing | None = None, **fields: object) -> Features:
    service = Service(key=ServiceKey("team", "chat"), model="chat", engines=engines, routing=routing or Routing())
    return Features(
        route=Route(public_name="chat", service=service, engine_model="chat"),
        method=b"POST",
        path="/v1/chat/completions",
        target=b"/v1/chat/completions",
        headers=[],
        body=msgspec.json.encode({"model": "chat", **fields}),
    )


def chosen(load: Numbers, asked: Features, candidates: tuple[Engine, ...] = ALL) -> tuple[Tier | str, str]:
    found = TierChooser().choose(asked, candidates=candidates, load=load)
    return (found.engine.tier, found.reason) if isinstance(found, Pick) else (type(found).__name__, found.reason)


FULL_GPU = {G1.endpoint: 2, G2.endpoint: 2}


def test_the_gpu_tier_is_used_until_it_is_full_and_its_engines_in_balance() -> None:
    load = Numbers(busy={G1.endpoint: 1})
    found = TierChooser().choose(features(), candidates=ALL, load=load)
    assert found == Pick(G2, "gpu_free")
    assert chosen(Numbers(busy=FULL_GPU), features()) == ("cpu", "gpu_saturated")


def test_when_everything_is_full_the_request_is_held() -> None:
    everything = {one.endpoint: 2 for one in ALL}
    assert chosen(Numbers(busy=everything), features()) == ("Hold", "saturated")


def test_a_decision_for_a_tier_is_kept_while_that_tier_has_no_room() -> None:
    routing = Routing(cpu=CpuUse(max_output_tokens=16))
    assert chosen(Numbers(busy=FULL_GPU), features(routing=routing, max_tokens=17)) == ("Hold", "saturated")
    standby = Routing(cpu=CpuUse(mode="standby"))
    assert chosen(Numbers(busy=FULL_GPU), features(routing=standby)) == ("Hold", "saturated")


def test_requests_that_the_router_holds_count_as_waiting() -> None:
    routing = Routing(cpu=CpuUse(gpu_waiting=3))
    assert chosen(Numbers(busy=FULL_GPU, waiting=1), features(routing=routing)) == ("Hold", "saturated")
    assert chosen(Numbers(busy=FULL_GPU, waiting=2), features(routing=routing)) == ("cpu", "gpu_saturated")


def test_an_ejected_tier_counts_as_absent_unless_all_are_ejected() -> None:
    assert chosen(Numbers(unfit={G1.endpoint: 0.0, G2.endpoint: 0.0}), features()) == ("cpu", "no_gpu")
    assert chosen(Numbers(unfit={one.endpoint: 0.0 for one in ALL}), features())[0] == "gpu"


def test_after_the_gpu_engines_were_tried_the_cpu_tier_is() -> None:
    routing = Routing(cpu=CpuUse(mode="standby", no_gpu_ready=False))
    assert chosen(Numbers(), features(routing=routing), (C1, C2)) == ("cpu", "no_gpu")
    assert chosen(Numbers(), features(routing=routing, engines=(C1,)), (C1,)) == ("Hold", "none_ready")


def test_stale_numbers_of_engines_decide_nothing() -> None:
    hot = {one.endpoint: EngineGauges(age=age, kv_percent=99) for one, age in ((G1, 1.0), (G2, 1.0))}
    assert chosen(Numbers(said=hot), features()) == ("cpu", "gpu_saturated")
    stale = {endpoint: gauges._replace(age=60.0) for endpoint, gauges in hot.items()}
    assert chosen(Numbers(said=stale), features()) == ("gpu", "gpu_free")


def test_rules_reach_the_body() -> None:
    rules = parse_rules([{"name": "long", "conditions": {"max_tokens": {"gte": 1024}}, "action": {"device": "CPU"}}])
    routing = Routing(rules=rules)
    assert chosen(Numbers(), features(routing=routing, max_tokens=2000)) == ("cpu", "rule")
    assert chosen(Numbers(), features(routing=routing, max_tokens=20)) == ("gpu", "gpu_free")


def test_a_busy_verdict_is_a_429_that_says_when_to_come_back() -> None:
    chooser = TierChooser(decider=ThresholdDecider(max_num_seqs=1))
    load = Numbers(busy={G1.endpoint: 2, C1.endpoint: 1})
    found = chooser.choose(features(), candidates=(G1, C1), load=load)
    assert isinstance(found, Refusal) and (found.error.status, found.error.retry_after) == (429, 1)


def test_services_without_a_cpu_tier_are_left_to_their_policy() -> None:
    found = TierChooser().choose(features(engines=(G1,)), candidates=(G1,), load=Numbers())
    assert found == Pick(G1, "policy")
    assert isinstance(TierChooser().choose(features(engines=()), candidates=(), load=Numbers()), Hold)
    assert not needs_metrics((G1, G2)) and needs_metrics((G1, C1))


@pytest.mark.parametrize("busy", [{}, FULL_GPU, {one.endpoint: 2 for one in ALL}])
def test_the_account_tells_what_would_be_chosen(busy: dict[Endpoint, int]) -> None:
    load = Numbers(busy=busy, said={G1.endpoint: EngineGauges(age=9.0, running=1)}, unfit={C2.endpoint: 0.0})
    asked = features()
    told = msgspec.json.decode(msgspec.json.encode(TierChooser().explain(asked, candidates=ALL, load=load)))
    found = TierChooser().choose(asked, candidates=ALL, load=load)
    assert (told["verdict"] == "send") == isinstance(found, Pick)
    assert told["tier"] == (found.engine.tier if isinstance(found, Pick) else None)
    by_name = {one["engine"]: one for one in told["candidates"]}
    assert "ejected" in by_name["10.0.0.1:4"]["excluded"] and by_name["10.0.0.1:1"]["metricsUsed"] is False
    assert told["why"] and told["tiers"]["rules"] == []


def test_the_account_of_a_service_with_one_tier_is_as_complete() -> None:
    told = TierChooser().explain(features(engines=(G1,)), candidates=(G1,), load=Numbers())
    assert (told["verdict"], told["why"]) == ("send", "only this tier has a ready engine")
    told = TierChooser().explain(features(engines=()), candidates=(), load=Numbers())
    assert told["verdict"] == "hold"


def test_a_service_says_which_rule_decides() -> None:
    load = Numbers(busy={G1.endpoint: 1})
    for use, tier in (
        (None, "gpu"),
        (DeciderUse(policy="balance"), "cpu"),
        (DeciderUse(policy="thresholds", max_num_seqs=1), "cpu"),
    ):
        assert chosen(load, features(routing=Routing(decider=use)))[0] == tier


def test_how_old_numbers_may_be_is_a_setting() -> None:
    full = {engine.endpoint: EngineGauges(age=9.0, kv_percent=99.0) for engine in (G1, G2)}
    account = TierChooser(stale=15.0).explain(features(max_tokens=5), candidates=ALL, load=Numbers(said=full))
    assert account["tier"] == "cpu"
    assert TierChooser().explain(features(max_tokens=5), candidates=ALL, load=Numbers(said=full))["tier"] == "gpu"
