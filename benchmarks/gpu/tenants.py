"""11.4: two tenants side by side: what each gets of the card, and what both together lose against the bare pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks._report import Anchor, Figure, at_most
from benchmarks.gpu.bench import Bench, Cap, Work, bench, pause, percent
from benchmarks.gpu.options import Options

FIVE: Final = Work("5 ms", 5e6, depth=4)
TWENTY: Final = Work("20 ms", 2e7)
SMALL: Final = Work("200 µs", 2e5, depth=8)
PAIRS: Final = (
    (30, 70, FIVE, FIVE),
    (30, 70, TWENTY, TWENTY),
    (50, 50, FIVE, FIVE),
    (20, 30, FIVE, FIVE),
    (50, 50, SMALL, TWENTY),
)
HAMI: Final = Anchor(2.6, "points; best published split error, HAMi-core PR 317 with a patch; 21.4/25.2 it/s at 30/70 without")


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    rows, left = [], 0
    with bench(options) as made:
        whole = {work.name: made.alone(work, None) for work in (FIVE, TWENTY, SMALL)}
        for pair in PAIRS:
            if not options.time_for(2 * (options.seconds + options.warm_s) + 8):
                left += 1
                continue
            rows += _pair(made, pair, whole)
            pause()
    if left:
        rows.append(Figure("pairs not measured", left, "", "time was up"))
    return rows


def _pair(made: Bench, pair: tuple[int, int, Work, Work], whole: dict[str, list[float]]) -> list[Figure]:
    first, second, a, b = pair
    bare = made.rates([(a, made.bare()), (b, made.bare())])
    both = made.rates([(a, made.limited(Cap(cores=first))), (b, made.limited(Cap(cores=second)))])
    shares = [percent(rates, whole[work.name]) for rates, work in zip(both, (a, b), strict=True)]
    error = max(abs(share - cap) for share, cap in zip(shares, (first, second), strict=True))
    native = sum(percent(rates, whole[work.name]) for rates, work in zip(bare, (a, b), strict=True))
    name, where = f"{first}/{second}, {a.name} beside {b.name}", f"{made.options.source}; kernels done in % of the uncapped rate"
    jain = sum(s / c for s, c in zip(shares, (first, second), strict=True)) ** 2
    jain /= 2 * sum((s / c) ** 2 for s, c in zip(shares, (first, second), strict=True))
    return [
        Figure(
            f"split error, {name}", error, "points", f"{where}: {shares[0]:.1f}/{shares[1]:.1f}", anchor=HAMI, goal=at_most(2)
        ),
        Figure(f"throughput of both, {name}", sum(shares), "%", f"{where}; the bare pair has {native:.1f}"),
        Figure(f"Jain's index, {name}", jain, "", f"{where}; of share by cap"),
        Figure(f"rate of the first, {name}", statistics.fmean(both[0]), "launches/s", where),
    ]
