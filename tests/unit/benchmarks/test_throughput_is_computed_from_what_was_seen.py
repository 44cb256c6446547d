"""From bound pods, processor time and request counts to figures."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure
from benchmarks.scheduler.contenders import NO_SCORES, OURS, STOCK
from benchmarks.scheduler.rig import Bound, CpuClock, count_requests
from benchmarks.scheduler.throughput import Run, summary


def run(contender: str, seconds: float, **cpu: float) -> Run:
    verbs = {"filter": 0.3, "prioritize": 0.2, "bind": 1.0} if contender == OURS else {}
    requests = Counter({"POST pods/binding": 101, "GET pods": 2, "POST events": 101})
    return Run(contender, 101, seconds, {"kube-scheduler": 0.5, **cpu}, requests, verbs)


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.figure: figure for figure in figures}


def test_ratios_are_taken_within_a_repeat_before_their_median() -> None:
    runs = [run(STOCK, 2.0), run(OURS, 1.0), run(NO_SCORES, 1.0)]
    runs += [run(STOCK, 1.0), run(OURS, 4.0), run(NO_SCORES, 1.0)]
    runs += [run(STOCK, 3.0), run(OURS, 2.0), run(NO_SCORES, 1.0)]
    found = by_name(summary(runs))
    ratio = found["Mica's pods/s over the stock profile's"]
    assert ratio.value == pytest.approx(1.5)
    assert ratio.met is True
    assert "2.00, 0.25, 1.50" in ratio.how


def test_slower_than_stock_is_a_missed_goal() -> None:
    found = by_name(summary([run(STOCK, 1.0), run(OURS, 1.1), run(NO_SCORES, 1.0)]))
    assert found["Mica's pods/s over the stock profile's"].met is False


def test_the_first_pod_starts_the_clock_and_costs_count_for_all() -> None:
    found = by_name(summary([run(STOCK, 2.0), run(OURS, 2.0, extender=0.505), run(NO_SCORES, 2.0)]))
    assert found["pods bound, Mica"].value == pytest.approx(50.0)
    assert found["CPU of the extender alone"].value == pytest.approx(5.0)
    assert found["API requests of the extender"].value == pytest.approx(103 / 101)
    assert found["bind in the extender"].value == pytest.approx(1000 / 101)


async def test_a_pod_counts_once_however_often_it_is_seen() -> None:
    started: list[bool] = []
    bound = Bound(2, on_first=lambda: started.append(True))
    for name in ("a", "a", "b", "a"):
        bound.see(name)
    await bound.all(stalled=lambda: "")
    assert bound.at.keys() == {"a", "b"}
    assert started == [True]
    assert bound.seconds == bound.at["b"] - bound.at["a"]


async def test_pods_that_are_never_bound_are_told_with_the_reason() -> None:
    bound = Bound(2, patience_s=0.0)
    bound.see("a")
    with pytest.raises(CannotMeasure, match=r"1 of 2 pods bound.*no room"):
        await bound.all(stalled=lambda: "no room")


def test_requests_are_counted_by_verb_and_resource_without_watches() -> None:
    text = """# TYPE apiserver_request_total counter
apiserver_request_total{code="201",resource="pods",subresource="binding",verb="POST",version="v1"} 3
apiserver_request_total{code="409",resource="pods",subresource="binding",verb="POST",version="v1"} 1
apiserver_request_total{code="200",resource="pods",subresource="",verb="GET",version="v1"} 1e+03
apiserver_request_total{code="200",resource="pods",subresource="",verb="WATCH",version="v1"} 7
apiserver_request_total{code="200",resource="",subresource="/readyz",verb="GET",version=""} 2
apiserver_request_duration_seconds_count{verb="POST"} 9
"""
    assert count_requests(text) == Counter({"POST pods/binding": 4, "GET pods": 1000, "GET /readyz": 2})


def test_processor_time_is_counted_from_the_start_of_the_clock() -> None:
    clock = CpuClock({"self": os.getpid()})
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    spent = clock.seconds()["self"]
    assert spent > 0
    clock.restart()
    assert clock.seconds()["self"] < spent
