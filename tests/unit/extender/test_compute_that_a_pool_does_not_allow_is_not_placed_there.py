"""A pod of a high class or a great weight goes where its pool allows that, and is told so where it waits."""

from __future__ import annotations

import json
from dataclasses import replace

from mica_api.compute import NO_CHOICE, ComputeChoice, ComputeRules
from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.explain.changes import smallest_changes
from mica_extender.explain.oracle import Oracle
from mica_extender.explain.report import explain
from mica_extender.placement import Card, Code, NodeState, Placement, Rejection, Shape, choose
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import NodeRecord, PodRecord, PoolRecord, decode_pool
from mica_runtime.reflector import Change

CARD = Card("GPU-1", 0, "A100", 81920)
HIGH = ComputeChoice(priority="high")
MODEST = NodeState("n", 10, (CARD,))
GENEROUS = replace(MODEST, compute=ComputeRules(highest_priority="high", max_weight=500))


def shape(choice: ComputeChoice, cores: int = 20) -> Shape:
    return Shape(PodRequest((ContainerRequest("c", number=1, cores=cores, memory_mib=1),)), Selection(compute=choice))


def test_the_class_and_the_weight_are_each_judged() -> None:
    refusal = Rejection(Code.COMPUTE_NOT_ALLOWED, permanent=True)
    assert choose(shape(HIGH), MODEST) == refusal
    assert choose(shape(ComputeChoice(weight=101), 0), MODEST) == refusal
    assert choose(shape(ComputeChoice(weight=501), 0), GENEROUS) == refusal
    for choice in (NO_CHOICE, HIGH, ComputeChoice(priority="low"), ComputeChoice(weight=500), ComputeChoice(policy="conserving")):
        assert isinstance(choose(shape(choice), GENEROUS), Placement)


async def test_what_to_change_is_said_in_words() -> None:
    (change,) = await smallest_changes(shape(HIGH), MODEST, Oracle())
    assert change.kind == "compute"
    assert "compute-priority is high, the highest is normal" in change.text


async def test_an_explanation_names_the_choice_and_the_refusing_pool() -> None:
    ledger = Ledger()
    ledger.apply_node(Change("n", None, NodeRecord("n", "p", 10, (CARD,), {}, ())))
    pod = PodRecord("team", "a", "u", "1", "", "mica-scheduler", False, False, False, shape(HIGH), "", None)
    told = await explain(pod, ledger)
    assert told["compute"] == {"priority": "high"}
    assert [reason["code"] for reason in told["reasons"]] == ["NodeComputeNotAllowed"]
    assert [change["kind"] for change in told["changes"]] == ["compute"]


def pool(**compute: object) -> PoolRecord:
    return decode_pool(json.dumps({"metadata": {"name": "p"}, "spec": {"compute": compute}}).encode())


def test_a_pool_that_allows_more_is_a_gain_for_who_waits() -> None:
    told: list[int] = []
    ledger = Ledger(on_gain=lambda: told.append(1))
    node = NodeRecord("n", "p", 10, (CARD,), {}, ())
    ledger.apply_node(Change("n", None, node))
    ledger.apply_pool(Change("p", None, pool()))
    before = len(told)
    ledger.apply_pool(Change("p", None, pool(highestPriority="High")))
    assert len(told) == before + 1
    state = ledger.node("n")
    assert state is not None and isinstance(choose(shape(HIGH), state), Placement)
    ledger.apply_pool(Change("p", None, pool(highestPriority="High", maxWeight=200)))
    assert len(told) == before + 2
    ledger.apply_pool(Change("p", None, pool()))
    assert len(told) == before + 2
    state = ledger.node("n")
    assert state is not None and isinstance(choose(shape(HIGH), state), Rejection)
