"""Arrivals, sampling, ties, determinism: what a replay does step by step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mica_extender.placement.fleet import Int32, Int64
from mica_extender.placement.model import Placement
from mica_extender.simulator.baselines import BASELINES
from mica_extender.simulator.compare import Task, gpus_needed, run
from mica_extender.simulator.model import Job, Result, Scenario
from mica_extender.simulator.openb import Trace, arrivals, read_trace
from mica_extender.simulator.policies import Engine, Policy, engine
from mica_extender.simulator.proof import Books, Overcommitted
from mica_extender.simulator.replay import nodes_to_find, replay
from mica_extender.simulator.world import World


@pytest.fixture
def trace(write_trace: Callable[..., Path]) -> Trace:
    return read_trace(write_trace())


def scenario_of(trace: Trace, seed: int = 1) -> Scenario:
    return arrivals(trace, seed=seed, load=1.3)


def what(result: Result) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.job.name, one.node, one.cards) for one in result.decisions]


def test_pods_are_cloned_up_to_the_load_and_never_beyond(trace: Trace) -> None:
    scenario = scenario_of(trace)
    asked = sum(job.gpu_milli for job in scenario.jobs)
    assert asked <= 1.3 * scenario.gpu_milli
    assert asked > 1.3 * scenario.gpu_milli - 2000
    originals = [job.name for job in scenario.jobs if "-clone-" not in job.name]
    assert sorted(originals) == [job.name for job in trace.jobs]
    assert len({job.name for job in scenario.jobs}) == len(scenario.jobs)


def test_pods_are_taken_out_above_the_load(trace: Trace) -> None:
    scenario = arrivals(trace, seed=1, load=0.3)
    assert sum(job.gpu_milli for job in scenario.jobs) <= 0.3 * scenario.gpu_milli
    assert len(scenario.jobs) < len(trace.jobs)


def test_gpu_milli_is_never_rounded(write_trace: Callable[..., Path]) -> None:
    trace = read_trace(write_trace(nodes=["n0,99000,99999,1,T4"], pods=["a,1,1,1,333,", "b,1,1,1,333,", "c,1,1,1,334,"]))
    result = replay(Scenario(trace.machines, trace.jobs, trace.gpu_milli), engine, name="mica")
    assert result.allocated[-1] == 1000
    assert result.failed == 0


def test_a_seed_decides_everything(trace: Trace) -> None:
    for maker in (engine, *BASELINES.values()):
        one, two = (replay(scenario_of(trace), maker, name="x", seed=3, percent=50) for _ in range(2))
        assert what(one) == what(two)
    assert what(replay(scenario_of(trace), engine, name="x", seed=3)) != what(
        replay(scenario_of(trace, 2), engine, name="x", seed=3)
    )


def test_as_many_nodes_are_looked_for_as_kube_scheduler_does() -> None:
    assert [nodes_to_find(n, 0) for n in (50, 99, 100, 500, 1213, 5000, 6000, 10000)] == [50, 99, 100, 230, 497, 500, 300, 500]
    assert nodes_to_find(5000, 100) == 5000
    assert nodes_to_find(5000, 10) == 500
    assert nodes_to_find(150, 10) == 100


class Recording(Engine):
    """Notes which nodes it is asked to score."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.asked: list[list[int]] = []

    def scores(self, job: Job, rows: Int32) -> Int64:
        self.asked.append(rows.tolist())
        return super().scores(job, rows)


def test_the_walk_goes_on_where_the_last_one_stopped(write_trace: Callable[..., Path]) -> None:
    nodes = [f"n{at:03},64000,65536,8,T4" for at in range(200)]
    trace = read_trace(write_trace(nodes=nodes, pods=[f"p{at},1,1,1,100," for at in range(3)]))
    made: list[Recording] = []

    def maker(world: World, jobs: Sequence[Job], rng: random.Random) -> Policy:
        made.append(Recording(world))
        return made[0]

    replay(Scenario(trace.machines, trace.jobs, trace.gpu_milli), maker, name="x")
    enough = nodes_to_find(200, 0)
    starts = [asked[0] for asked in made[0].asked]
    assert [len(asked) for asked in made[0].asked] == [enough] * 3
    assert starts == [0, enough % 200, 2 * enough % 200]


class Indifferent(Engine):
    """Finds all nodes equally good."""

    def scores(self, job: Job, rows: Int32) -> Int64:
        return np.zeros(len(rows), np.int64)


def test_ties_are_drawn_at_random(write_trace: Callable[..., Path]) -> None:
    nodes = [f"n{at},64000,65536,8,T4" for at in range(4)]
    trace = read_trace(write_trace(nodes=nodes, pods=[f"p{at:03},1,1,1,10," for at in range(100)]))
    scenario = Scenario(trace.machines, trace.jobs, trace.gpu_milli)
    result = replay(scenario, lambda world, jobs, rng: Indifferent(world), name="x")
    counts = Counter(one.node for one in result.decisions)
    assert all(10 < counts[f"n{at}"] < 40 for at in range(4))


def test_cpu_memory_and_model_are_enforced(write_trace: Callable[..., Path]) -> None:
    nodes = ["small,1000,99999,8,T4", "poor,99000,10,8,T4", "other,99000,99999,8,G2", "right,99000,99999,8,T4"]
    trace = read_trace(write_trace(nodes=nodes, pods=[f"p{at},2000,20,1,1000,T4" for at in range(9)]))
    scenario = Scenario(trace.machines, trace.jobs, trace.gpu_milli)
    for maker in (engine, *BASELINES.values()):
        result = replay(scenario, maker, name="x")
        assert [one.node for one in result.decisions] == ["right"] * 8 + [""]
        assert result.refused == 0


def test_pods_of_several_gpus_get_different_cards(write_trace: Callable[..., Path]) -> None:
    trace = read_trace(write_trace(nodes=["n0,99000,99999,8,T4"], pods=["a,1,1,1,500,", "b,1,1,4,1000,", "c,1,1,4,1000,"]))
    result = replay(Scenario(trace.machines, trace.jobs, trace.gpu_milli), engine, name="x")
    assert [len(one.cards) for one in result.decisions] == [1, 4, 0]
    assert "CardInsufficient" in result.decisions[2].reason or "Exclusive" in result.decisions[2].reason


class Refusing(Engine):
    """Has no cards for the pod named here, though it fits."""

    def place(self, job: Job, row: int) -> Placement | None:
        return None if job.name == "p001" else super().place(job, row)


def test_a_planted_refusal_is_caught(trace: Trace) -> None:
    scenario = Scenario(trace.machines, trace.jobs, trace.gpu_milli)
    result = replay(scenario, lambda world, jobs, rng: Refusing(world), name="x")
    refused = [one for one in result.decisions if one.refused]
    assert [one.job.name for one in refused] == ["p001"]
    assert "would fit on n" in refused[0].reason
    assert replay(scenario, engine, name="x").refused == 0


def test_a_planted_overcommitment_is_caught(trace: Trace) -> None:
    scenario = Scenario(trace.machines, trace.jobs, trace.gpu_milli)
    result = replay(scenario, engine, name="x")
    placed = next(one for one in result.decisions if one.job.gpu_milli == 1000 and one.node)
    books = Books(scenario.machines)
    books.take(placed.job, placed.node, placed.shares)
    with pytest.raises(Overcommitted, match="no room"):
        books.take(placed.job, placed.node, placed.shares)
    with pytest.raises(Overcommitted, match="of one node"):
        books.take(placed.job, next(m.state.name for m in scenario.machines if m.state.name != placed.node), placed.shares)


def test_allocation_is_read_at_the_load(trace: Trace) -> None:
    result = replay(scenario_of(trace), engine, name="x")
    assert result.allocation_at(0.5) <= result.allocation_at(1.0) <= result.allocation_at(1.3)
    assert result.allocation_at(1.3) == 100 * result.allocated[-1] / result.capacity
    assert gpus_needed([result], "x", result.allocation_at(1.3)) == pytest.approx(result.capacity / 1000)


def test_the_policy_of_a_task_is_the_machines(trace: Trace) -> None:
    seen = [run(Task(policy, 1, lambda seed: scenario_of(trace, seed))) for policy in ("spread", "binpack")]
    light = [Task(policy, 1, lambda seed: arrivals(trace, seed=seed, load=0.2)) for policy in ("spread", "binpack")]
    assert [one.policy for one in seen] == ["spread", "binpack"]
    spread, binpack = (run(task).gpus_in_use for task in light)
    assert spread > binpack
