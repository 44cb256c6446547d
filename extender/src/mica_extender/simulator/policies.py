"""What a simulated scheduler prefers: Mica's engine under any of its node policies. The baselines are in ``baselines.py``."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import numpy as np

from mica_extender.placement.dream import Dream
from mica_extender.placement.fit import choose
from mica_extender.placement.fleet import Fleet, Int32, Int64
from mica_extender.placement.fragmentation import card_key
from mica_extender.placement.kernels import CompiledShape, KernelMissing, load_native
from mica_extender.placement.mix import Dreamer, Mix
from mica_extender.placement.model import Placement, Shape
from mica_extender.placement.native_dream import dreams_by
from mica_extender.placement.policy import CardCost
from mica_extender.placement.score import score
from mica_extender.placement.scoring import UNSCORED, CompiledTables, native_scores, numpy_scores, supply_of
from mica_extender.simulator.model import Job
from mica_extender.simulator.world import World


class Policy(Protocol):
    """Which of the nodes that a pod fits on, and which cards there."""

    first_tie: bool
    """Whether all nodes are looked at and the first of the best is taken, as in published simulations; kube-scheduler samples and
    draws."""

    def arrive(self, job: Job) -> None:
        """A pod has come."""
        ...

    def scores(self, job: Job, rows: Int32) -> Int64:
        """Scores of nodes on which the pod fits, higher is better."""
        ...

    def place(self, job: Job, row: int) -> Placement | None:
        """Cards on the chosen node."""
        ...


Maker = Callable[[World, Sequence[Job], random.Random], Policy]
"""Makes a policy for a world; a baseline may look at all jobs that will come, the engine does not."""


class ScoreCache:
    """Scores per shape, computed again for nodes that have changed. ``compute`` gives those of some rows."""

    def __init__(self, world: World, compute: Callable[[Shape, Int32], Int64]) -> None:
        self._world, self._compute = world, compute
        self._known: dict[Shape, tuple[Int64, Int64]] = {}

    def forget(self) -> None:
        """What scores depend on besides the nodes is another."""
        self._known.clear()

    def get(self, shape: Shape, rows: Int32) -> Int64:
        """Scores of the nodes in these rows."""
        size = self._world.fleet.node_rows
        known = self._known.get(shape)
        if known is None:
            known = self._known[shape] = (np.zeros(size, np.int64), np.zeros(size, np.int64))
        scores, at = known
        version = self._world.fleet.version
        stale = rows[version[rows] != at[rows]]
        if len(stale):
            scores[stale], at[stale] = self._compute(shape, stale), version[stale]
        return scores[rows]


class Engine:
    """The extender's own placement, scores and card choice. It knows of the pods only those that have come."""

    first_tie = False

    def __init__(self, world: World) -> None:
        self._world = world
        dreamer: Callable[[], Dreamer] = Dream
        self._kernel: Callable[[Fleet, CompiledShape, CompiledTables, Int32], Int64] = numpy_scores
        with suppress(KernelMissing):
            kernel = load_native()
            self._kernel, dreamer = partial(native_scores, kernel.library), dreams_by(kernel)
        self._mix = Mix(dreamer)
        self._supply = supply_of(world.fleet)
        self._tables = CompiledTables(self._mix.tables, world.fleet)
        self._compiled: dict[Shape, CompiledShape] = {}
        self._cache = ScoreCache(world, self._score)

    def arrive(self, job: Job) -> None:
        """See Policy."""
        self._mix.observe(job.shape)
        tables = self._mix.current(self._supply)
        if tables is not self._tables.tables:
            self._tables = CompiledTables(tables, self._world.fleet)
            self._cache.forget()

    def scores(self, job: Job, rows: Int32) -> Int64:
        """See Policy."""
        return self._cache.get(job.shape, rows)

    def place(self, job: Job, row: int) -> Placement | None:
        """See Policy."""
        verdict = choose(job.shape, self._world.fleet.state(row), cost=self._cost())
        return verdict if isinstance(verdict, Placement) else None

    def _score(self, shape: Shape, rows: Int32) -> Int64:
        fleet = self._world.fleet
        compiled = self._compiled.get(shape)
        if compiled is None:
            compiled = self._compiled[shape] = CompiledShape(shape, fleet)
        scores = self._kernel(fleet, compiled, self._tables, rows)
        for at in np.flatnonzero(scores == UNSCORED).tolist():
            state = fleet.state(int(rows[at]))
            verdict = choose(shape, state, cost=self._cost())
            scores[at] = score(shape, state, verdict, self._tables.tables) if isinstance(verdict, Placement) else 0
        return scores

    def _cost(self) -> CardCost:
        return partial(card_key, tables=self._tables.tables)


def engine(world: World, jobs: Sequence[Job], rng: random.Random) -> Policy:
    """Mica under the node policies that the machines have; ``jobs`` and ``rng`` are not used."""
    return Engine(world)
