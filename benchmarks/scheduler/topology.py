"""What choosing the best connected cards costs, on random matrices of links, every one a new one.

That the choice equals the one of trying all sets is a matter of tests; here is what it takes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from benchmarks._report import Figure, at_most
from benchmarks.scheduler.options import Options
from mica_extender.placement import Card
from mica_extender.placement.topology import best_set, link_rate

MATRICES: Final = {8: 1_000, 16: 50}
"""How many of each number of cards."""
_KINDS: Final = ("NV18", "NV12", "NV4", "NV2", "NV1", "PIX", "PXB", "PHB", "NODE", "SYS")


def figures(_: Options) -> Sequence[Figure]:
    """The slowest and the mean of all matrices, in milliseconds of this process."""
    chance = random.Random(11)
    found = []
    for cards, matrices in MATRICES.items():
        took = [_time(_linked(cards, chance), chance.randint(1, cards)) for _ in range(matrices)]
        how = f"CPU time of a choice of 1 to {cards} cards, {matrices} random matrices"
        found.append(Figure(f"best set of {cards} cards, slowest", max(took) * 1e3, "ms", how, goal=at_most(5)))
        found.append(Figure(f"best set of {cards} cards, mean", sum(took) / len(took) * 1e3, "ms", how))
    return found


def _time(cards: Sequence[Card], number: int) -> float:
    began = time.process_time()
    best_set(cards, number)
    return time.process_time() - began


def _linked(count: int, chance: random.Random) -> list[Card]:
    links: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    for one, other in combinations(range(count), 2):
        links[one].append((f"GPU-{other:02}", link_rate(chance.choice(_KINDS))))
    return [Card(f"GPU-{at:02}", at, "H100", 81920, numa=chance.randrange(2), links=tuple(links[at])) for at in range(count)]
