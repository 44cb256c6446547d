"""From processor time and instructions per request and event to figures, goals in absolute numbers and beside peers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure
from benchmarks.router import interpreter
from benchmarks.router.counter import counting, may_count
from benchmarks.router.speed import Speed, told


def speed(*, requests: float, events: float, instructions: float = 0.0) -> Speed:
    """Of one round; the rates per second and core."""
    return Speed([1 / requests], [1.0], [1 / events], [0.0002], [instructions], [instructions])


def by_name(found: dict[str, Speed]) -> dict[str, Figure]:
    return {figure.figure: figure for figure in told(found, speed(requests=1, events=1))}


def test_half_a_machine_misses_the_absolute_goal_and_meets_the_one_beside_nginx() -> None:
    found = by_name({"Mica": speed(requests=9_000, events=36_000), "nginx": speed(requests=29_400, events=47_550)})
    assert found["stream events per second and core"].met is False
    assert found["stream events per second and core beside nginx"].met is True
    assert found["requests per second and core beside nginx"].met is True


def test_less_than_the_share_of_nginx_is_a_missed_goal_on_any_machine() -> None:
    found = by_name({"Mica": speed(requests=50_000, events=73_000), "nginx": speed(requests=60_000, events=100_000)})
    assert found["stream events per second and core"].met is True
    assert found["stream events per second and core beside nginx"].met is False


@pytest.mark.parametrize(("ours", "met"), [(27_000.0, True), (28_000.0, False)])
def test_instructions_have_the_same_goal_the_other_way_round(ours: float, met: bool) -> None:
    nginx = speed(requests=1, events=1, instructions=20_000)
    found = by_name({"Mica": speed(requests=1, events=1, instructions=ours), "nginx": nginx})
    assert found["instructions of a stream event beside nginx"].met is met


def test_where_nobody_counted_nothing_is_said_of_instructions() -> None:
    found = by_name({"Mica": speed(requests=1, events=1), "nginx": speed(requests=1, events=1)})
    assert not [name for name in found if "instructions" in name]


def test_what_others_execute_is_counted_while_the_block_is_open_or_refused_in_words() -> None:
    try:
        with counting([os.getpid()]) as counted:
            before = counted()
            sum(range(100_000))
            assert counted() - before > 100_000
    except CannotMeasure as error:
        assert "perf_event_paranoid" in str(error)
        assert not may_count()
    else:
        assert may_count()


def test_a_thread_that_has_ended_meanwhile_is_left_out() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    try:
        with counting([ended.pid]) as counted:
            assert counted() == 0
    except CannotMeasure:
        assert not may_count()


def test_the_distributions_interpreter_is_given_what_this_one_can_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "PYTHON", "/usr/bin/python3.x")
    paths = interpreter.environment_for()["PYTHONPATH"].split(os.pathsep)
    assert any(path.endswith("site-packages") for path in paths)
    assert not [path for path in paths if path.startswith(f"{sys.base_prefix}/")]
