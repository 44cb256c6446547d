"""Places pods one after the other as kube-scheduler would with the extender at its side, and writes down what became of each.

kube-scheduler walks over the nodes from where it stopped the last time, keeps those that pass its own filters until it has enough
(``percentageOfNodesToScore``), asks the extender about these, and takes one of the best at random. A pod that fits on none is
dropped. Every failed pod is tried on all nodes by ``proof``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import numpy as np

from mica_extender.placement.fit import choose
from mica_extender.placement.fleet import Bytes, Int32, Int64
from mica_extender.placement.kernels import CODES, FITS, UNDECIDED, CompiledShape, Kernel, KernelMissing, NumpyKernel, load_native
from mica_extender.placement.model import Placement, Shape
from mica_extender.simulator.model import Decision, Job, Result, Scenario
from mica_extender.simulator.policies import Maker, Policy
from mica_extender.simulator.proof import Books
from mica_extender.simulator.world import World

_FEWEST: Final = 100
"""kube-scheduler never looks for fewer feasible nodes."""
_FEWEST_PERCENT: Final = 5
_NO_NODE: Final = "no node passes kube-scheduler's filters: not enough CPU, memory or GPU in total, or no such model"


def nodes_to_find(nodes: int, percent: int) -> int:
    """Feasible nodes after which kube-scheduler stops looking; ``percent`` 0 is its adaptive default."""
    if nodes < _FEWEST or percent >= 100:
        return nodes
    share = percent or max(_FEWEST_PERCENT, 50 - nodes // 125)
    return max(_FEWEST, nodes * share // 100)


def replay(
    scenario: Scenario,
    maker: Maker,
    *,
    name: str,
    seed: int = 0,
    percent: int = 0,
    on_pod: Callable[[int], None] = lambda placed: None,
) -> Result:
    """Place all pods of the scenario. ``on_pod`` is told after each pod how many there have been."""
    world, rng = World(scenario.machines), random.Random(seed)
    scheduler = _Scheduler(world, maker(world, scenario.jobs, rng), rng, percent)
    books = Books(scenario.machines)
    decisions: list[Decision] = []
    arrived, allocated, come, placed = [], [], 0, 0
    for count, job in enumerate(scenario.jobs, start=1):
        decision = scheduler.decide(job)
        if decision.node:
            books.take(job, decision.node, decision.shares)
            placed += job.gpu_milli
        elif (where := books.fits_on(job)) is not None:
            decision = Decision(job, reason=f"{decision.reason}; it would fit on {where}", refused=True)
        decisions.append(decision)
        come += job.gpu_milli
        arrived.append(come)
        allocated.append(placed)
        on_pod(count)
    return Result(
        name, seed, scenario.gpu_milli, tuple(decisions), tuple(arrived), tuple(allocated), world.gpus_in_use(), _idle(world)
    )


class _Scheduler:
    """kube-scheduler and the extender's filter; the policy is the extender's prioritize and bind."""

    def __init__(self, world: World, policy: Policy, rng: random.Random, percent: int) -> None:
        self._world, self._policy, self._rng = world, policy, rng
        self._nodes = len(world.machines)
        self._enough = nodes_to_find(self._nodes, percent)
        self._start = 0
        self._verdicts: dict[Shape, tuple[CompiledShape, Bytes, Int64]] = {}
        self._kernel: Kernel
        try:
            self._kernel = load_native()
        except KernelMissing:
            self._kernel = NumpyKernel()

    def decide(self, job: Job) -> Decision:
        """Place one pod, or say why not."""
        self._policy.arrive(job)
        sampled = self._sample(job)
        if not len(sampled):
            return Decision(job, reason=_NO_NODE)
        codes = self._codes(job.shape, sampled)
        fitting = sampled[codes == FITS]
        if not len(fitting):
            return Decision(job, reason=_reasons(codes))
        row = self._best(job, fitting)
        placement = self._policy.place(job, row)
        if placement is None:
            return Decision(job, reason=f"no cards on {self._world.machines[row].state.name} after all")
        self._world.place(job, row, placement)
        return Decision(job, self._world.machines[row].state.name, placement.shares)

    def _sample(self, job: Job) -> Int32:
        """Rows that pass kube-scheduler's own filters, in its order, until there are enough."""
        passed = np.flatnonzero(self._world.sieve(job))
        if self._policy.first_tie:
            return passed.astype(np.int32)
        at = int(np.searchsorted(passed, self._start))
        ordered = np.concatenate((passed[at:], passed[:at]))[: self._enough]
        if self._enough < self._nodes:
            walked = (int(ordered[-1]) - self._start) % self._nodes + 1 if len(ordered) == self._enough else self._nodes
            self._start = (self._start + walked) % self._nodes
        return ordered.astype(np.int32)

    def _codes(self, shape: Shape, rows: Int32) -> Bytes:
        """The filter's verdicts, computed again only for nodes that have changed."""
        fleet = self._world.fleet
        known = self._verdicts.get(shape)
        if known is None:
            size = fleet.node_rows
            known = self._verdicts[shape] = (CompiledShape(shape, fleet), np.zeros(size, np.uint8), np.zeros(size, np.int64))
        compiled, codes, at = known
        stale = rows[fleet.version[rows] != at[rows]]
        if len(stale):
            codes[stale], at[stale] = self._kernel.evaluate(fleet, compiled, stale).codes, fleet.version[stale]
            for row in stale[codes[stale] == UNDECIDED].tolist():
                verdict = choose(shape, fleet.state(row))
                codes[row] = FITS if isinstance(verdict, Placement) else CODES.index(verdict.code)
        return codes[rows]

    def _best(self, job: Job, rows: Int32) -> int:
        scores = self._policy.scores(job, rows)
        best = rows[scores == scores.max()]
        return int(best.min() if self._policy.first_tie else best[self._rng.randrange(len(best))])


def _reasons(codes: Bytes) -> str:
    """As kube-scheduler words it: how many nodes failed by which code."""
    numbers, counts = np.unique(codes, return_counts=True)
    parts = [f"{count} {CODES[number]}" for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)]
    return f"0/{len(codes)} nodes are available: {', '.join(parts)}"


def _idle(world: World) -> tuple[tuple[str, int], ...]:
    """Thousandths of GPUs that are free at the end, by model."""
    idle: dict[str, int] = {}
    for state in world.fleet.states():
        for card in state.cards:
            left = min(
                (card.total_mib - card.used_mib) * 1000 // card.total_mib,
                (card.core_capacity - card.used_cores) * 1000 // card.core_capacity,
            )
            idle[card.model] = idle.get(card.model, 0) + max(0, left)
    return tuple(sorted(idle.items()))
