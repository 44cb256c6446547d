"""The report of a benchmark: goals are computed, parts do not erase each other, nothing unmeasured is shown."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks._report import Anchor, Figure, Goal, at_least, at_most, number, report

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def figure(name: str = "filter p50", value: float = 2.0, *, goal: Goal | None = None, anchor: Anchor | None = None) -> Figure:
    return Figure(name, value, "ms", "1,000 calls", anchor=anchor, goal=goal)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@given(FINITE, FINITE)
def test_a_goal_is_met_on_its_good_side_and_at_its_own_value(value: float, wanted: float) -> None:
    assert figure(value=value, goal=at_most(wanted)).met is (value <= wanted)
    assert figure(value=value, goal=at_least(wanted)).met is (value >= wanted)


def test_a_figure_without_a_goal_has_neither_met_nor_missed_it() -> None:
    assert figure().met is None
    assert figure().to_json()["met"] is None


def test_the_ratio_is_ours_over_the_anchors() -> None:
    assert figure(value=3.0, anchor=Anchor(974.0, "HAMi")).ratio == pytest.approx(0.00308, rel=0.01)
    assert figure(value=3.0, anchor=Anchor(0.0, "nobody")).ratio is None
    assert figure().ratio is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_could_not_be_measured_is_no_figure(bad: float) -> None:
    with pytest.raises(ValueError, match="filter p50"):
        figure(value=bad)
    with pytest.raises(ValueError, match="goal"):
        figure(goal=at_most(bad))
    with pytest.raises(ValueError, match="anchor"):
        figure(anchor=Anchor(bad, "HAMi"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0312, "0.0312"), (2.041, "2.04"), (96.123, "96.12"), (1234.4, "1,234"), (400.0, "400"), (-0.5, "-0.500")],
)
def test_numbers_are_as_long_as_they_are_worth(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_shows_anchor_ratio_goal_and_what_was_missed(tmp_path: Path) -> None:
    out = io.StringIO()
    shown = figure(value=4.0, goal=at_most(3.0), anchor=Anchor(974.0, "HAMi 2.10"))
    report("scheduler", "speed", [shown], folder=tmp_path, console=Console(file=out, width=200))
    for words in ("filter p50", "974 HAMi 2.10", "0.00411 ×", "≤ 3", "NO", "1,000 calls"):
        assert words in out.getvalue()


def test_the_file_keeps_the_other_parts_and_replaces_its_own(tmp_path: Path) -> None:
    report("scheduler", "speed", [figure("a"), figure("b")], folder=tmp_path, console=quiet())
    report("scheduler", "packing", [figure("a", goal=at_least(1.0))], folder=tmp_path, console=quiet())
    path = report("scheduler", "speed", [figure("c")], folder=tmp_path, console=quiet())
    stored = json.loads(path.read_text())
    assert [(row["part"], row["figure"]) for row in stored] == [("packing", "a"), ("speed", "c")]
    [kept, _] = stored
    assert {"value", "unit", "anchor", "ratio", "goal", "met", "how", "measured", "machine"} <= set(kept)
    assert kept["goal"] == {"direction": "at least", "value": 1.0}
    assert kept["met"] is True


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "[1, null]"])
def test_a_file_that_is_none_of_ours_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "scheduler.json").write_text(text)
    path = report("scheduler", "speed", [figure()], folder=tmp_path, console=quiet())
    assert len(json.loads(path.read_text())) == 1


def test_two_figures_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="filter p50"):
        report("scheduler", "speed", [figure(), figure()], folder=tmp_path, console=quiet())
    assert not list(tmp_path.iterdir())
