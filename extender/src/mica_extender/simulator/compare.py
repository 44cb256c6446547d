"""Several policies over several seeds, in parallel, and what the comparison says: allocation, refusals, GPUs saved."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Final

from mica_api.policies import NODE_POLICIES
from mica_extender.simulator.baselines import BASELINES
from mica_extender.simulator.model import Result, Scenario
from mica_extender.simulator.policies import Maker, engine
from mica_extender.simulator.replay import replay

POLICIES: Final = (*NODE_POLICIES, *BASELINES)
"""Names of what can be simulated: the engine under each of its node policies, and the baselines."""


@dataclass(frozen=True, slots=True)
class Task:
    """One replay to do. ``scenario`` makes the input in the process that needs it, from the seed."""

    policy: str
    seed: int
    scenario: Callable[[int], Scenario]
    percent: int = 0


def maker(policy: str) -> Maker:
    """What makes a policy. Raises KeyError for a name that is not in POLICIES."""
    return engine if policy in NODE_POLICIES else BASELINES[policy]


def run(task: Task, on_pod: Callable[[int], None] = lambda done: None) -> Result:
    """One replay. The engine's node and card policy are the task's, on every machine."""
    scenario = task.scenario(task.seed)
    if task.policy in NODE_POLICIES:
        machines = tuple(
            replace(m, state=replace(m.state, node_policy=task.policy, gpu_policy=(task.policy,))) for m in scenario.machines
        )
        scenario = replace(scenario, machines=machines)
    return replay(scenario, maker(task.policy), name=task.policy, seed=task.seed, percent=task.percent, on_pod=on_pod)


def run_all(tasks: Sequence[Task], processes: int) -> Iterator[Result]:
    """All replays, each as it is done. With one process nothing is started."""
    if processes < 2 or len(tasks) < 2:
        yield from map(run, tasks)
        return
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, task) for task in tasks]):
            yield future.result()


@dataclass(frozen=True, slots=True)
class Spread:
    """Values of all seeds in their order."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample; 0 for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


def allocations(results: Sequence[Result], policy: str, load: float) -> Spread:
    """Allocation in percent at a load, by seed."""
    ours = sorted((one for one in results if one.policy == policy), key=lambda one: one.seed)
    return Spread(tuple(one.allocation_at(load) for one in ours))


def gpus_needed(results: Sequence[Result], policy: str, allocated: float) -> float:
    """GPUs with which the policy would hold what ``allocated`` percent of the present GPUs hold, at its final density."""
    mine = [one for one in results if one.policy == policy]
    capacity = mine[0].capacity / 1000
    return capacity * allocated / statistics.fmean(100 * one.allocated[-1] / one.capacity for one in mine)
