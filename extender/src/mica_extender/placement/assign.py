"""Which containers go onto which cards, when each wants several distinct cards: an exact answer, card by card.

A forward dynamic program. What is kept after each card is the set of all distinct remainders (one number of missing cards for
every container) that the cards so far can leave; a remainder of zeros is a solution, and none that could still become one is
dropped. Containers with slices of one size stand for each other, and of those the ones that miss most cards are always served
first: for equal slices that is optimal (Gale, Ryser 1957: degrees of a bipartite graph). What goes onto one card together comes
as *loads*, counts by size; only loads that no other contains need be looked at. Knows nothing of memory and cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Load = tuple[int, ...]
"""How many slices of each size a card takes together."""
MAX_REMAINDERS: Final = 300_000
"""Remainders kept after one card. See ``mica_api.request.MAX_ASKING``."""
BEAM: Final = 300
UNITS_PER_STEP: Final = 2_000
"""Remainders looked at in about the time that one combination of ``fit`` takes."""
_Table = npt.NDArray[np.int64]
_States = npt.NDArray[np.uint8]


class Assigned(NamedTuple):
    """For every card the containers on it, or None when there is no way; what finding it cost, in combinations of ``fit``.

    ``given_up``: more than MAX_REMAINDERS would have had to be kept, so that None means nothing.
    """

    cards: tuple[tuple[int, ...], ...] | None
    cost: int
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """``numbers[i]``: distinct cards that container i wants. ``sizes``: the containers of each size. ``loads``: by card.

    ``ends`` where a container's cards must all be of one group: whether a card is the last of its group.
    """

    numbers: Sequence[int]
    sizes: Sequence[Sequence[int]]
    loads: Sequence[Sequence[Load]]
    ends: Sequence[bool] | None = None


def assign(task: Task) -> Assigned:
    """Solve it: first along the BEAM remainders that miss least, which finds most ways; then, to be sure, along all."""
    quick = _Solver(task, width=BEAM).run()
    if not quick.given_up:
        return quick
    full = _Solver(task, width=MAX_REMAINDERS).run()
    return full._replace(cost=quick.cost + full.cost)


class _Solver:
    def __init__(self, task: Task, *, width: int) -> None:
        self._task = task
        self._width = width
        # Where groups matter it is better to finish one container than to serve all: no two stand for each other then.
        self._order = [at for size in task.sizes for at in sorted(size, key=lambda one: (-task.numbers[one], one))]
        widths = [len(size) for size in task.sizes]
        starts = np.cumsum([0, *widths]).tolist()
        self._blocks = [slice(start, end) for start, end in pairwise(starts)]
        self._start = np.array([[task.numbers[at] for at in self._order]], np.uint8)
        self._room = [_rooms(task.loads, size, width) for size, width in enumerate(widths)]
        self._weights = _weights(len(widths))
        self._most = _most_by_weight(task.loads, self._weights)
        room = np.array([max(float(self._room[size][0][-1]), 1.0) for size in range(len(widths))])
        self._scarcity = np.repeat(1.0 / room, widths)
        self._parents: list[tuple[_Table, _Table]] = []
        self._seen = 0

    def run(self) -> Assigned:
        states = self._start[self._possible(self._start, 0)]
        dropped = False
        for card in range(len(self._task.loads)):
            if not len(states) or not states.any(axis=1).all():
                break
            states = self._next(states, card)
            if len(states) > self._width:
                states, dropped = self._narrowed(states), True
        solved = np.flatnonzero(~states.any(axis=1))
        if len(solved):
            return Assigned(self._trace(int(solved[0])), self._cost())
        return Assigned(None, self._cost(), given_up=dropped)

    def _narrowed(self, states: _States) -> _States:
        """The remainders that miss least, weighted by what is scarce: a size of which the cards can take few counts more."""
        missing = states @ self._scarcity
        kept = np.sort(np.argpartition(missing, self._width)[: self._width])
        parents, loads = self._parents[-1]
        self._parents[-1] = (parents[kept], loads[kept])
        return states[kept]

    def _cost(self) -> int:
        return 1 + self._seen // UNITS_PER_STEP

    def _next(self, states: _States, card: int) -> _States:
        """The remainders after one more card, each once."""
        parts: list[_States] = []
        origins: list[_Table] = []
        loads = self._task.loads[card] or [(0,) * len(self._blocks)]
        for number, load in enumerate(loads):
            after = self._served(states, load)
            if self._task.ends is not None and self._task.ends[card]:
                after = np.where(after > 0, self._start, 0).astype(np.uint8)
            kept = np.flatnonzero(self._possible(after, card + 1))
            parts.append(after[kept])
            origins.append(np.stack([kept, np.full(len(kept), number)], axis=1))
            self._seen += len(states)
        found, came = np.concatenate(parts), np.concatenate(origins)
        first = _distinct(found)
        self._parents.append((came[first, 0], came[first, 1]))
        return found[first]

    def _served(self, states: _States, load: Load) -> _States:
        after = states.copy()
        for block, count in zip(self._blocks, load, strict=True):
            if count:
                served = slice(block.start, min(block.start + count, block.stop))
                after[:, served] -= after[:, served] > 0
                if block.stop - block.start > 1:
                    after[:, block] = np.sort(after[:, block], axis=1)[:, ::-1]
        return after

    def _possible(self, states: _States, card: int) -> npt.NDArray[np.bool_]:
        """What the cards from this one on might serve: of each size by itself (exactly), of several by weighted sums."""
        possible = np.ones(len(states), bool)
        totals = np.zeros((len(states), len(self._blocks)), np.int64)
        for size, block in enumerate(self._blocks):
            largest = np.cumsum(states[:, block], axis=1, dtype=np.int64)
            possible &= (largest <= self._room[size][card]).all(axis=1)
            totals[:, size] = largest[:, -1]
        return possible & (totals @ self._weights <= self._most[card]).all(axis=1)

    def _trace(self, state: int) -> tuple[tuple[int, ...], ...]:
        """The containers on each card, told from the start along the loads that led to a remainder of zeros."""
        taken: list[int] = []
        for parents, loads in reversed(self._parents):
            taken.append(int(loads[state]))
            state = int(parents[state])
        missing, groups = dict(enumerate(self._task.numbers)), self._task.ends
        placed: list[tuple[int, ...]] = []
        for card, number in enumerate(reversed(taken)):
            load = self._task.loads[card][number] if self._task.loads[card] else (0,) * len(self._blocks)
            now: list[int] = []
            for size, count in zip(self._task.sizes, load, strict=True):
                neediest = sorted(size, key=lambda at: (-missing[at], at))[:count]
                now += [at for at in neediest if missing[at]]
            for at in now:
                missing[at] -= 1
            placed.append(tuple(now))
            if groups is not None and groups[card]:
                self._take_back(placed, missing)
        return (*placed, *(() for _ in range(len(self._task.loads) - len(placed))))

    def _take_back(self, placed: list[tuple[int, ...]], missing: dict[int, int]) -> None:
        """A group's end: who has not got all cards has got none."""
        unfinished = {at for at, left in missing.items() if left}
        placed[:] = [tuple(at for at in card if at not in unfinished) for card in placed]
        missing.update({at: self._task.numbers[at] for at in unfinished})


def _rooms(loads: Sequence[Sequence[Load]], size: int, width: int) -> list[_Table]:
    """By card: what the cards from it on could give, of this size alone, to the m neediest containers together, m = 1…width."""
    rooms = [np.zeros(width, np.int64)]
    for card in reversed(loads):
        most = max((load[size] for load in card), default=0)
        rooms.append(rooms[-1] + np.minimum(np.arange(1, width + 1), most))
    return rooms[::-1]


def _weights(sizes: int) -> _Table:
    """Columns of weights by size: every run of neighbouring sizes counts as one. Any weights are a bound; these are cheap."""
    runs = [(start, end) for start in range(sizes) for end in range(start + 2, sizes + 1)]
    columns = np.zeros((sizes, len(runs)), np.int64)
    for column, (start, end) in enumerate(runs):
        columns[start:end, column] = 1
    return columns


def _most_by_weight(loads: Sequence[Sequence[Load]], weights: _Table) -> list[_Table]:
    """By card: the greatest weighted sums that the cards from it on can take."""
    most = [np.zeros(weights.shape[1], np.int64)]
    for card in reversed(loads):
        best = (np.array(card, np.int64) @ weights).max(axis=0) if card else 0
        most.append(most[-1] + best)
    return most[::-1]


def _distinct(states: _States) -> _Table:
    """Where each distinct row is first."""
    rows = np.ascontiguousarray(states)
    if not len(rows):
        return np.zeros(0, np.int64)
    _, first = np.unique(rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), return_index=True)
    return np.asarray(first, np.int64)
