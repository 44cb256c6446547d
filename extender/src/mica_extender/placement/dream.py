"""What of a partly taken card nobody will ever use, learned by filling imaginary cards with the pods that come.

A card with 190 thousandths left is worth little where most pods want 470. How little is not a matter of the next pod alone (the
fragmentation of FGD, Weng et al., ATC'23) but of all that follow, and of how rare the small ones are that would fit. So cards are
filled in a dream: pods are drawn by their frequencies and placed by the present table, each where the table's loss is least; what
is left in the end of all cards that passed a level is the level's waste. The next dream places by it (policy iteration with
Monte-Carlo evaluation). Shares are thousandths of a card, waste is millionths; the random numbers are our own and seeded, so that
equal pods give equal tables everywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np

LEVELS: Final = 1000
"""Thousandths in a card."""
CARDS: Final = 1000
_FEWEST_CARDS: Final = 20
_DRAWS: Final = 2600
"""Pods in a dream, about: where slices are small, fewer cards are filled, so that a dream costs some ten milliseconds."""
ROUNDS: Final = 2
SEED: Final = 12345
_LOAD_TENTHS: Final = 13
_PRIOR: Final = 3
"""Weight of the level below in a level's mean: a level that few cards have passed is like its neighbour."""
_MICRO: Final = 1000
"""Millionths in a thousandth."""
_MULTIPLIER: Final = 6364136223846793005
_INCREMENT: Final = 1442695040888963407
_MASK: Final = (1 << 64) - 1


class Dream:
    """The table of one kind of card. ``waste[level]`` is at most the level itself."""

    def __init__(self) -> None:
        self.waste: tuple[int, ...] = (0,) * (LEVELS + 1)
        self.dreamt = False
        self._left = [0] * (LEVELS + 1)
        self._passed = [0] * (LEVELS + 1)
        self._random = SEED

    def go_on(self, classes: Sequence[tuple[int, int]]) -> None:
        """Learn more from (share, count) of every class, shares from 1 to LEVELS; older dreams count half each time."""
        self.dreamt = True
        for _ in range(ROUNDS if classes else 0):
            paths = self._fill(classes)
            self._left = [value // 2 for value in self._left]
            self._passed = [value // 2 for value in self._passed]
            for path in paths:
                for level in path:
                    self._left[level] += path[-1]
                    self._passed[level] += 1
            self.waste = self._table()

    def _fill(self, classes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Levels that each card passes, from empty to what is left."""
        shares = [share for share, _ in classes]
        up_to = list(accumulate(count for _, count in classes))
        orders = {share: self._order(share) for share in set(shares)}
        mean = sum(share * count for share, count in classes) // up_to[-1]
        cards = max(_FEWEST_CARDS, min(CARDS, 10 * _DRAWS * mean // (_LOAD_TENTHS * LEVELS)))
        paths = [[LEVELS] for _ in range(cards)]
        at: list[list[int]] = [[] for _ in range(LEVELS + 1)]
        at[LEVELS] = list(range(cards))
        to_come = cards * LEVELS * _LOAD_TENTHS // 10
        while to_come > 0:
            share = shares[bisect_right(up_to, self._draw(up_to[-1]))]
            to_come -= share
            level = next((level for level in orders[share] if at[level]), None)
            if level is not None:
                card = at[level].pop()
                at[level - share].append(card)
                paths[card].append(level - share)
        return paths

    def _order(self, share: int) -> list[int]:
        """Levels that have room for the share, the least loss first, then the fullest."""
        waste = np.array(self.waste, np.int64)
        order: list[int] = (np.argsort(waste[: LEVELS + 1 - share] - waste[share:], kind="stable") + share).tolist()
        return order

    def _table(self) -> tuple[int, ...]:
        table, below = [], -_MICRO
        for level, (left, passed) in enumerate(zip(self._left, self._passed, strict=True)):
            mean = (left * _MICRO + _PRIOR * below) // (passed + _PRIOR) if passed else below + _MICRO
            below = max(0, min(mean, level * _MICRO))
            table.append(below)
        return tuple(table)

    def _draw(self, below: int) -> int:
        self._random = (self._random * _MULTIPLIER + _INCREMENT) & _MASK
        return (self._random >> 33) % below
