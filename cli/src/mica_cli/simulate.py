"""`mica simulate`: traces and snapshots through the placement engine; tables, log, picture. Arguments in, text out."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mica_extender.simulator.compare import POLICIES, Task, allocations, gpus_needed, run, run_all
from mica_extender.simulator.model import BadInput, Decision, Result, Scenario
from mica_extender.simulator.openb import Trace, arrivals, read_trace
from mica_extender.simulator.plot import plot
from mica_extender.simulator.snapshot import Snapshot, read_snapshot

DEFAULT_POLICIES: Final = ("fragmentation", "fgd", "best-fit", "random")
FIRST_SEED: Final = 42
DEFAULT_LOAD: Final = 1.3
DEFAULT_LIST: Final = "default"


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of the command. `pods` and `load` are for traces, `waiting_only` is for snapshots."""

    trace: Path | None = None
    pods: str | None = None
    snapshot: tuple[Path, ...] = ()
    waiting_only: bool = False
    policies: tuple[str, ...] = ()
    seeds: int = 10
    load: float | None = None
    sample: int = 0
    processes: int = 0
    log: Path | None = None
    plot: Path | None = None
    figures: Path | None = None


def main(request: Request, console: Console | None = None) -> str:
    """Do what the command asks for. What is wrong with it in words; empty when all went well."""
    console = console or Console()
    try:
        policies = check_policies(request.policies)
        source = read(request)
        if isinstance(source, Trace):
            load = DEFAULT_LOAD if request.load is None else request.load
            tasks = trace_tasks(source, policies, seeds=request.seeds, load=load, percent=request.sample)
            title, loads = f"openb, pod list {request.pods or DEFAULT_LIST}", sorted({min(1.0, load), load})
        else:
            tasks = snapshot_tasks(source, policies, seeds=request.seeds, percent=request.sample, anew=not request.waiting_only)
            title, loads = "snapshot", [math.inf]
            for kind, count in sorted(source.others.items()):
                console.print(f"not used: {count} {kind}")
        if not tasks[0].scenario(FIRST_SEED).jobs:
            return "there is no pod to place"
        results = simulate(tasks, console, request.processes)
        _write(results, loads, title, request)
    except (BadInput, OSError) as error:
        return str(error)
    for table in tables(results, loads):
        console.print(table)
    refused = sum(one.refused for one in results)
    console.print(
        f"feasible but refused: {refused} of {sum(one.failed for one in results)} failed pods, each tried on every node"
    )
    return ""


def _write(results: Sequence[Result], loads: Sequence[float], title: str, request: Request) -> None:
    if request.log is not None:
        with request.log.open("w", encoding="utf-8") as file:
            write_log(results, file)
    if request.plot is not None:
        request.plot.write_text(plot(results, title), encoding="utf-8")
    if request.figures is not None:
        request.figures.write_text(json.dumps(to_json(results, loads), indent=1) + "\n", encoding="utf-8")


def check_policies(policies: Sequence[str]) -> tuple[str, ...]:
    """The policies, each once. Raises BadInput for a name that is none."""
    for policy in policies:
        if policy not in POLICIES:
            raise BadInput(f"there is no policy {policy!r}; there are: {', '.join(POLICIES)}")
    return tuple(dict.fromkeys(policies or DEFAULT_POLICIES))


def trace_tasks(trace: Trace, policies: Sequence[str], *, seeds: int, load: float, percent: int) -> list[Task]:
    """All replays of a trace, the slowest policies last."""
    scenario = partial(_of_trace, trace, load)
    return [Task(policy, FIRST_SEED + at, scenario, percent) for policy in policies for at in range(seeds)]


def snapshot_tasks(snapshot: Snapshot, policies: Sequence[str], *, seeds: int, percent: int, anew: bool) -> list[Task]:
    """All replays of a snapshot; seeds differ in the random choices alone."""
    scenario = partial(_of_snapshot, snapshot, anew)
    return [Task(policy, FIRST_SEED + at, scenario, percent) for policy in policies for at in range(seeds)]


def simulate(tasks: Sequence[Task], console: Console, processes: int = 0) -> list[Result]:
    """Do all replays, with a progress bar: pods where one process works, replays where several do."""
    workers = processes or len(os.sched_getaffinity(0))
    if workers > 1 and len(tasks) > 1:
        with _bar(console, "replays", len(tasks)) as advance:
            found = []
            for result in run_all(tasks, workers):
                found.append(result)
                advance(1)
        return sorted(found, key=lambda one: ([task.policy for task in tasks].index(one.policy), one.seed))
    found = []
    for task in tasks:
        jobs = len(task.scenario(task.seed).jobs)
        with _bar(console, f"{task.policy}, seed {task.seed}", jobs) as advance:
            found.append(run(task, on_pod=partial(_one_more, advance)))
    return found


def tables(results: Sequence[Result], loads: Sequence[float]) -> list[Table]:
    """Allocation by policy with every seed, and what the first policy saves against the others."""
    policies = list(dict.fromkeys(one.policy for one in results))
    table = Table(title="allocation, % of all GPUs", title_justify="left")
    table.add_column("policy", no_wrap=True)
    for load in loads:
        table.add_column(_heading(load), justify="right", no_wrap=True)
    for column in ("failed", "feasible but refused", "GPUs in use"):
        table.add_column(column, justify="right")
    for policy in policies:
        mine = [one for one in results if one.policy == policy]
        table.add_row(
            policy,
            *(str(allocations(results, policy, load)) for load in loads),
            f"{statistics.fmean(one.failed for one in mine):.0f}",
            str(sum(one.refused for one in mine)),
            f"{statistics.fmean(one.gpus_in_use for one in mine):.0f}",
        )
    return [table, _every_seed(results, policies, loads[-1]), *_savings(results, policies)]


def _heading(load: float) -> str:
    return "at the end" if math.isinf(load) else f"at {100 * load:.0f} %"


def write_log(results: Sequence[Result], file: TextIO) -> None:
    """One JSON line per pod: what became of it."""
    for result in results:
        for decision in result.decisions:
            line = {"policy": result.policy, "seed": result.seed, **_decision(decision)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def to_json(results: Sequence[Result], loads: Sequence[float]) -> dict[str, Any]:
    """All figures of all replays."""
    return {
        "replays": [
            {
                "policy": one.policy,
                "seed": one.seed,
                "gpus": one.capacity // 1000,
                "pods": len(one.decisions),
                "failed": one.failed,
                "feasibleButRefused": one.refused,
                "gpusInUse": one.gpus_in_use,
                "allocationPercent": {_heading(load): one.allocation_at(load) for load in loads},
                "idleMilliGPUsByModel": dict(one.idle),
            }
            for one in results
        ]
    }


def read(request: Request) -> Trace | Snapshot:
    """Exactly one of the inputs. Raises BadInput, also for what would do nothing with this input."""
    if (request.trace is None) == (not request.snapshot):
        raise BadInput("give --trace DIR or --snapshot FILE, one of them")
    if request.trace is not None:
        if request.waiting_only:
            raise BadInput("--waiting-only is for --snapshot: pods of a trace do not run yet; leave it out")
        return read_trace(request.trace, request.pods or DEFAULT_LIST)
    if request.load is not None:
        raise BadInput("--load is for --trace: a snapshot has the pods that it has, each placed once; leave it out")
    if request.pods is not None:
        raise BadInput("--list is for --trace: it names a pod list of the trace; leave it out")
    return read_snapshot(request.snapshot)


def _every_seed(results: Sequence[Result], policies: Sequence[str], load: float) -> Table:
    table = Table(title=f"every seed from {FIRST_SEED} on, {_heading(load)}", title_justify="left")
    table.add_column("policy", no_wrap=True)
    table.add_column("allocation, %", overflow="fold")
    for policy in policies:
        table.add_row(policy, " ".join(f"{value:.2f}" for value in allocations(results, policy, load).values))
    return table


def _savings(results: Sequence[Result], policies: Sequence[str]) -> list[Table]:
    """GPUs that the other policies would need for what the first one holds."""
    if len(policies) < 2:
        return []
    first = policies[0]
    held = statistics.fmean(100 * one.allocated[-1] / one.capacity for one in results if one.policy == first)
    have = results[0].capacity / 1000
    overloaded = any(one.failed for one in results)
    what = f"GPUs to hold {held:.2f} % of {have:.0f}" if overloaded else "GPUs that hold a slice in the end"
    table = Table(title=f"what {first} saves", title_justify="left")
    for column in ("policy", what, "saved"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    used = {p: statistics.fmean(one.gpus_in_use for one in results if one.policy == p) for p in policies}
    for policy in policies[1:]:
        need = gpus_needed(results, policy, held) if overloaded else used[policy]
        base = have if overloaded else used[first]
        table.add_row(policy, f"{need:.0f}", f"{need - base:.0f}")
    return [table]


def _decision(decision: Decision) -> dict[str, Any]:
    if decision.node:
        return {"pod": decision.job.name, "node": decision.node, "cards": list(decision.cards)}
    return {"pod": decision.job.name, "failed": decision.reason, **({"feasible": True} if decision.refused else {})}


def _of_trace(trace: Trace, load: float, seed: int) -> Scenario:
    return arrivals(trace, seed=seed, load=load)


def _of_snapshot(snapshot: Snapshot, anew: bool, seed: int) -> Scenario:
    return snapshot.anew() if anew else snapshot.as_it_is()


def _one_more(advance: Callable[[float], None], pods: int) -> None:
    advance(1)


@contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Callable[[float], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.advance(task, more)
