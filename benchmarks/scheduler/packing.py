"""Packing: allocation of the openb trace's GPUs by Mica's default policy, beside FGD, BestFit and random choice in one simulator.

Protocol of the FGD simulator (Weng et al., ATC'23): pods shuffled by the seed, clones up to 130 % load, arrival order kept,
nothing moved; with kube-scheduler's node sampling and random ties. Every failed pod is tried on every node.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks._command import CannotMeasure
from benchmarks._report import Anchor, Figure, at_least, at_most
from benchmarks.scheduler.options import Options
from mica_extender.simulator.compare import Spread, Task, allocations, run_all
from mica_extender.simulator.model import BadInput, Result, Scenario
from mica_extender.simulator.openb import Trace, arrivals, read_trace

GOALS: Final[Mapping[str, float]] = {"default": 95.8, "cpu200": 95.8, "gpushare40": 94.4, "gpuspec20": 95.8, "multigpu20": 96.2}
"""Percent at 130 % load."""
GOALS_FULL: Final[Mapping[str, float]] = {"gpuspec20": 95.6}
"""Percent at 100 % load."""
LOAD: Final = 1.3
SEEDS: Final = 10
BASELINE_SEEDS: Final = 3
FIRST_SEED: Final = 42
OURS: Final = "fragmentation"
BASELINES: Final = ("fgd-first-tie", "fgd", "best-fit", "random")


def figures(options: Options) -> Sequence[Figure]:
    """Figures of all five pod lists. Raises CannotMeasure when the trace cannot be read."""
    try:
        traces = {pods: read_trace(options.trace(), pods) for pods in GOALS}
    except BadInput as error:
        raise CannotMeasure(str(error)) from error
    results = _replay(traces)
    console = Console(width=160)
    found: list[Figure] = []
    for pods, mine in results.items():
        console.print(_table(pods, mine))
        found += _figures(pods, mine)
    unsampled = [one for mine in results.values() for one in mine if one.policy == OURS and one.seed < 0]
    sampled = [one for mine in results.values() for one in mine if one.policy == OURS and one.seed >= 0]
    for name, runs, goal in (("all nodes seen", unsampled, at_most(0)), ("percentageOfNodesToScore 0", sampled, None)):
        failed = sum(one.failed for one in runs)
        found.append(
            Figure(
                f"feasible but refused, {name}",
                sum(one.refused for one in runs),
                "pods",
                f"{len(runs)} replays of five lists; each of {failed} failed pods tried on every node by books of its own",
                goal=goal,
            )
        )
    return found


def _scenario(trace: Trace, seed: int) -> Scenario:
    return arrivals(trace, seed=abs(seed), load=LOAD)


def _replay(traces: Mapping[str, Trace]) -> dict[str, list[Result]]:
    """All replays by pod list. A negative seed is the same replay with all nodes seen."""
    tasks: dict[str, list[Task]] = {}
    for pods, trace in traces.items():
        scenario = partial(_scenario, trace)
        seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
        slow = [Task(policy, seed, scenario) for policy in BASELINES for seed in seeds[:BASELINE_SEEDS]]
        tasks[pods] = [*slow, *(Task(OURS, seed, scenario) for seed in seeds), Task(OURS, -FIRST_SEED, scenario, percent=100)]
    workers = len(os.sched_getaffinity(0))
    found: dict[str, list[Result]] = {}
    for pods, mine in tasks.items():
        found[pods] = list(track(run_all(mine, workers), description=f"packing {pods}", total=len(mine), transient=True))
    return found


def _sampled(results: Sequence[Result]) -> list[Result]:
    return [one for one in results if one.seed >= 0]


def _table(pods: str, results: Sequence[Result]) -> Table:
    table = Table(title=f"{pods}: allocation, % of all GPUs, random ties unless said", title_justify="left")
    for column in ("policy", "at 100 %", "at 130 %", "every seed at 130 %", "failed pods", "feasible but refused"):
        table.add_column(column)
    for policy in (OURS, *BASELINES):
        mine = [one for one in _sampled(results) if one.policy == policy]
        end = allocations(mine, policy, LOAD)
        table.add_row(
            policy,
            str(allocations(mine, policy, 1.0)),
            str(end),
            " ".join(f"{value:.2f}" for value in end.values),
            f"{statistics.fmean(one.failed for one in mine):.0f}",
            str(sum(one.refused for one in mine)),
        )
    return table


def _figures(pods: str, results: Sequence[Result]) -> list[Figure]:
    mine = _sampled(results)
    how = f"{SEEDS} seeds, random ties, percentageOfNodesToScore 0, pods in order of arrival, nothing moved"
    ends, full = allocations(mine, OURS, LOAD), allocations(mine, OURS, 1.0)
    first_tie = Anchor(round(allocations(mine, "fgd-first-tie", LOAD).mean, 3), "FGD, first tie, all nodes, measured here")
    first_tie_full = Anchor(round(allocations(mine, "fgd-first-tie", 1.0).mean, 3), "FGD, first tie, all nodes, measured here")
    found = [
        Figure(f"{pods} at 130 % load", round(ends.mean, 3), "% of GPUs", _seeds(how, ends), first_tie, at_least(GOALS[pods])),
        Figure(
            f"{pods} at 100 % load",
            round(full.mean, 3),
            "% of GPUs",
            _seeds(how, full),
            first_tie_full,
            at_least(GOALS_FULL[pods]) if pods in GOALS_FULL else None,
        ),
    ]
    for policy in BASELINES:
        spread = allocations(mine, policy, LOAD)
        told = f"{policy} in the same simulator, {BASELINE_SEEDS} seeds"
        found.append(Figure(f"{pods} at 130 % load, {policy}", round(spread.mean, 3), "% of GPUs", _seeds(told, spread)))
    return found


def _seeds(how: str, spread: Spread) -> str:
    return f"{how}; ± {spread.deviation:.3f}; {' '.join(f'{value:.2f}' for value in spread.values)}"
