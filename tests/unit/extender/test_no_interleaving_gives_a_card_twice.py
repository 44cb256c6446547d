"""10,000 interleavings of the production bind code with every fault at every await; see ``harness``.

A failing seed is told again with ``python -m harness SEED SEED+1`` in this folder, with PYTHONHASHSEED=0.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest

from .harness.awaits import AWAITS
from .harness.faults import CANNOT_BE, FAULTS, KILL, empty_cells, table
from .harness.runs import told
from .harness.story import Plan, plan_of, tell

RUNS = 10_000
FEW = 60


def test_a_few_interleavings_give_no_card_twice() -> None:
    found = told(0, FEW, processes=1)
    assert found.problems == {}
    assert found.totals["runs"] == FEW


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_no_interleaving_gives_a_card_twice_leaks_a_slice_or_forgets_a_pod() -> None:
    found = told(0, RUNS, processes=os.cpu_count() or 1)
    print(f"\n{found.totals['runs']} interleavings, {found.totals['bindings']} Bindings, {found.cpu_s:.0f} CPU-s")
    print(f"{found.totals['over_commitments']} over-commitments by deciders without a Lease, all refused and repaired")
    print(table(found.hits))
    assert found.problems == {}
    assert found.totals["runs"] == RUNS
    assert found.totals["over_commitments"] > 100, "stale deciders have to succeed for their repair to be tested"
    assert empty_cells(found.hits) == []


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [3, 7])
def test_a_kill_between_any_two_steps_loses_nothing(seed: int) -> None:
    """The first process is killed after each of its steps in turn, once pods have come; up to there the story is the same."""
    calm = Plan()
    steps = tell(seed, calm).steps
    first = steps // 4
    problems = {step: found for step in range(first, steps) if (found := tell(seed, Plan(kill_step=step)).problems)}
    assert problems == {}


def test_the_same_seed_tells_the_same_story() -> None:
    one, two = tell(11), tell(11)
    assert (one.hits, one.bindings, one.lasted_s, one.steps) == (two.hits, two.bindings, two.lasted_s, two.steps)


@pytest.mark.parametrize("seed", range(10))
def test_what_the_clocks_of_machines_show_changes_nothing(seed: int) -> None:
    """Step by step the same story of every kind, whether they jump by an hour at every look or not."""
    steady, jumping = (tell(seed, replace(plan_of(seed), clocks_jump=jump)) for jump in (False, True))
    assert jumping.problems == []
    assert (steady.hits, steady.bindings, steady.lasted_s, steady.steps) == (
        *(jumping.hits, jumping.bindings),
        *(jumping.lasted_s, jumping.steps),
    )


def test_every_await_of_the_bind_is_a_row_and_an_empty_cell_is_a_failure() -> None:
    labels = [point.label for point in AWAITS]
    assert len(set(labels)) == len(labels)
    assert any("self._api.bind" in label for label in labels)
    full = Counter({(a, f): 1 for a in labels for f in FAULTS if (a, f) not in CANNOT_BE})
    assert empty_cells(full) == []
    del full[labels[0], KILL]
    assert empty_cells(full) == [f"{labels[0]} × {KILL}: no hit"]
    impossible = next(iter(CANNOT_BE))
    assert len(empty_cells(full + Counter({impossible: 1}))) == 2
