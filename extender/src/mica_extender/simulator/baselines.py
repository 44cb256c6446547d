"""The schedulers that the engine is measured against: FGD (Weng et al., ATC'23), BestFit, and random choice.

They are told what fits by the same filter. FGD is told beforehand which pods will come, as its authors do; the engine is not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from mica_api.request import ContainerRequest
from mica_extender.placement.dream import LEVELS
from mica_extender.placement.fit import choose
from mica_extender.placement.fleet import Int32, Int64
from mica_extender.placement.fragmentation import free_share
from mica_extender.placement.kernels import cards_of
from mica_extender.placement.mix import CardKind
from mica_extender.placement.model import Card, Placement, Shape
from mica_extender.placement.policy import CardCost
from mica_extender.placement.scoring import supply_of
from mica_extender.simulator.model import Job
from mica_extender.simulator.policies import Policy, ScoreCache
from mica_extender.simulator.world import World

Reals = npt.NDArray[np.float64]
_TYPICAL: Final = 0.95
"""Part of the pods whose classes FGD looks at, the most frequent first."""
_CPU_MILLI: Final = 128_000
_GPUS: Final = 8
_FINE: Final = 10**6


class _Baseline:
    """Common to all: nothing is learned from arrivals, and a card key chooses the cards."""

    first_tie = False

    def __init__(self, world: World) -> None:
        self.world = world

    def arrive(self, job: Job) -> None:
        """See Policy."""

    def place(self, job: Job, row: int) -> Placement | None:
        """See Policy."""
        state = self.world.fleet.state(row)
        verdict = choose(job.shape, state, cost=self.card_cost(job.shape, row))
        return verdict if isinstance(verdict, Placement) else None

    def card_cost(self, shape: Shape, row: int) -> CardCost:
        """How cards compare: the fullest that has room."""
        return _fullest


class Random(_Baseline):
    """Any node on which the pod fits, any card there."""

    def __init__(self, world: World, jobs: Sequence[Job], rng: random.Random) -> None:
        super().__init__(world)
        self._rng = rng

    def scores(self, job: Job, rows: Int32) -> Int64:
        """See Policy."""
        return np.zeros(len(rows), np.int64)

    def card_cost(self, shape: Shape, row: int) -> CardCost:
        """See _Baseline."""
        return partial(_any_card, rng=self._rng)


class BestFit(_Baseline):
    """The node with the least CPU and GPU left after the placement, of 128 cores and 8 GPUs, in a hundred steps."""

    def __init__(self, world: World, jobs: Sequence[Job], rng: random.Random) -> None:
        super().__init__(world)
        self._cache = ScoreCache(world, self._left)

    def scores(self, job: Job, rows: Int32) -> Int64:
        """See Policy. Normalised over the nodes that fit, as kube-scheduler's scorers are."""
        left = self._cache.get(job.shape, rows)
        low, high = int(left.min()), int(left.max())
        return (high - left) * 100 // (high - low) if high > low else np.zeros(len(rows), np.int64)

    def _left(self, shape: Shape, rows: Int32) -> Int64:
        free, _, _ = levels(self.world, rows)
        gpu = free.sum(axis=1) - job_shares(shape, self.world, rows)
        cpu = np.maximum(self.world.cpu_left[rows] - shape.cpu_milli, 0)
        left: Int64 = cpu * _FINE // (2 * _CPU_MILLI) + gpu * _FINE // (2 * _GPUS * LEVELS)
        return left


class FGD(_Baseline):
    """Fragmentation gradient descent with the published score: ⌊100 · sigmoid(ΔF)⌋ of the best card of the node."""

    def __init__(self, world: World, jobs: Sequence[Job], rng: random.Random) -> None:
        super().__init__(world)
        self._cache = ScoreCache(world, self._score)
        counts = Counter(job.shape for job in jobs)
        typical: list[tuple[Shape, int]] = []
        covered = 0
        for shape, count in counts.most_common():
            if covered >= _TYPICAL * len(jobs):
                break
            covered += count
            typical.append((shape, count))
        # Pods without GPUs can use none of what is free: they count in the total alone.
        asking = [(shape, _first(shape), count / covered) for shape, count in typical if _first(shape).asks]
        self._probability = np.array([share for _, _, share in asking])
        self._number = np.array([wanted.number for _, wanted, _ in asking], np.int64)
        self._cpu = np.array([shape.cpu_milli for shape, _, _ in asking], np.int64)
        fleet, kinds = world.fleet, supply_of(world.fleet).kinds
        self._kinds = kinds
        self._need = np.array([[kinds[model].share(wanted) for _, wanted, _ in asking] for model in fleet.models], np.int64)
        self._accepts = np.array(
            [[shape.selection.accepts_model(model) for shape, _, _ in asking] for model in fleet.models], np.bool_
        )

    def scores(self, job: Job, rows: Int32) -> Int64:
        """See Policy."""
        return self._cache.get(job.shape, rows)

    def card_cost(self, shape: Shape, row: int) -> CardCost:
        """See _Baseline: the card with the greatest gain, then the fullest."""
        if _first(shape).number != 1:
            return _fullest
        gains = self._gains(shape, np.array([row], np.int32))[0]
        return partial(
            _by_gain, gains={card.uuid: gain for card, gain in zip(self.world.fleet.state(row).cards, gains, strict=False)}
        )

    def _score(self, shape: Shape, rows: Int32) -> Int64:
        best = self._gains(shape, rows).max(axis=1)
        steps: Int64 = np.floor(100 / (1 + np.exp(-best / LEVELS))).astype(np.int64)
        return steps

    def _gains(self, shape: Shape, rows: Int32) -> Reals:
        """ΔF in thousandths of a GPU by node and card (one column where the cards do not matter); -inf where it does not fit."""
        free, at, models = levels(self.world, rows)
        cpu = self.world.cpu_left[rows]
        need, accepts = self._need[models], self._accepts[models]
        fits = free[:, :, None] >= need[:, None, :]
        count, usable = fits.sum(axis=1), (free[:, :, None] * fits).sum(axis=1)
        before = self._fragments(free.sum(axis=1), count, usable, accepts & (self._cpu <= cpu[:, None]))
        allowed = accepts & (self._cpu <= (cpu - shape.cpu_milli)[:, None])
        wanted = _first(shape)
        if wanted.number != 1:
            taken = self._taken(free, wanted, shape, rows)
            fits = taken[:, :, None] >= need[:, None, :]
            after = self._fragments(taken.sum(axis=1), fits.sum(axis=1), (taken[:, :, None] * fits).sum(axis=1), allowed)
            return (before - after)[:, None]
        share = self._shares(wanted)[models][:, None]
        then = free - share
        fits_then = then[:, :, None] >= need[:, None, :]
        count_then = count[:, None, :] - fits + fits_then
        usable_then = usable[:, None, :] - free[:, :, None] * fits + then[:, :, None] * fits_then
        total = (free.sum(axis=1) - share[:, 0])[:, None]
        after = self._fragments(total, count_then, usable_then, allowed[:, None, :])
        return np.where((then >= 0) & at, before[:, None] - after, -np.inf)

    def _fragments(self, total: Int64, count: Int64, usable: Int64, allowed: npt.NDArray[np.bool_]) -> Reals:
        found: Reals = total - ((allowed & (count >= self._number)) * usable) @ self._probability
        return found

    def _taken(self, free: Int64, wanted: ContainerRequest, shape: Shape, rows: Int32) -> Int64:
        """Free shares after the first cards that have room are taken; unchanged for a pod without GPUs."""
        if not wanted.asks:
            return free
        share = job_shares(shape, self.world, rows)[:, None] // wanted.number
        able = free >= share
        return np.where(able & (np.cumsum(able, axis=1) <= wanted.number), free - share, free)

    def _shares(self, wanted: ContainerRequest) -> Int64:
        return np.array([self._kinds[model].share(wanted) for model in self.world.fleet.models], np.int64)


class FirstTieFGD(FGD):
    """FGD where ties fall to the first node of a fixed order, as its authors simulate it; kube-scheduler draws."""

    first_tie = True


def levels(world: World, rows: Int32) -> tuple[Int64, npt.NDArray[np.bool_], Int32]:
    """Free share by node and card, which places hold a card, and the model of each node's first card."""
    fleet = world.fleet
    cards, owner = cards_of(fleet, rows)
    counts = fleet.card_count[rows]
    place = np.arange(len(cards)) - np.repeat(np.cumsum(counts) - counts, counts)
    free = np.zeros((len(rows), int(counts.max(initial=0))), np.int64)
    at = np.zeros(free.shape, np.bool_)
    memory = (fleet.capacity_mib[cards] - fleet.used_mib[cards]) * LEVELS // fleet.capacity_mib[cards]
    cores = (fleet.core_capacity[cards] - fleet.used_cores[cards]).astype(np.int64) * LEVELS // fleet.core_capacity[cards]
    free[owner, place], at[owner, place] = np.maximum(np.minimum(memory, cores), 0), True
    return free, at, fleet.model[fleet.first_card[rows]]


def job_shares(shape: Shape, world: World, rows: Int32) -> Int64:
    """Thousandths of GPUs that a pod takes on each node, over all its cards."""
    wanted, fleet = _first(shape), world.fleet
    heads = fleet.first_card[rows]
    shares: dict[tuple[int, int, int], int] = {}
    found = np.empty(len(rows), np.int64)
    columns = zip(
        fleet.memory_mib[heads].tolist(), fleet.capacity_mib[heads].tolist(), fleet.core_capacity[heads].tolist(), strict=True
    )
    for at, key in enumerate(columns):
        if key not in shares:
            shares[key] = wanted.number * CardKind(*key).share(wanted)
        found[at] = shares[key]
    return found


def _first(shape: Shape) -> ContainerRequest:
    """The container that asks, or one that asks for nothing. Baselines know pods of one asking container."""
    return next((one for one in shape.request.containers if one.asks), ContainerRequest("none"))


def _fullest(card: Card, /, *, wanted: ContainerRequest, max_slices: int) -> tuple[int, ...]:
    return (free_share(card),)


def _any_card(card: Card, /, *, wanted: ContainerRequest, max_slices: int, rng: random.Random) -> tuple[int, ...]:
    return (rng.getrandbits(30),)


def _by_gain(card: Card, /, *, wanted: ContainerRequest, max_slices: int, gains: dict[str, float]) -> tuple[int, ...]:
    gain = gains[card.uuid]
    return (-round(gain * _FINE) if gain > -np.inf else _FINE**2, free_share(card))


BASELINES: Final[dict[str, type[Random] | type[BestFit] | type[FGD]]] = {
    "fgd": FGD,
    "fgd-first-tie": FirstTieFGD,
    "best-fit": BestFit,
    "random": Random,
}
"""Baselines by name; each is a Maker."""


def make(name: str, world: World, jobs: Sequence[Job], rng: random.Random) -> Policy:
    """A baseline. Raises KeyError for a name that is none."""
    return BASELINES[name](world, jobs, rng)
