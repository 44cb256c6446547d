"""11.3: the share that a capped program gets, alone and beside a busy neighbour; truth is kernels done against uncapped."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks._report import Figure, at_most
from benchmarks.gpu.bench import Bench, Cap, Work, bench, pause, percent, percentile
from benchmarks.gpu.options import Options

CAPS: Final = (50, 30, 70, 10, 90)
WORKS: Final = (
    Work("5 µs", 5e3, depth=64),
    Work("200 µs", 2e5, depth=8),
    Work("20 ms", 2e7),
    Work("20 ms, queued", 2e7, depth=8),
    Work("300 ms", 3e8),
    Work("graph of 12 ms", 1e6, graph=12),
    Work("200 µs on 4 streams", 2e5, depth=16, streams=4),
)
NEIGHBOUR: Final = Work("neighbour", 1e6, depth=8)


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part; the 50 % column first, for when time runs out."""
    caps = CAPS[:1] if options.simulated else CAPS
    rows, left = [], 0
    with bench(options) as made:
        whole = {work.name: made.alone(work, None) for work in WORKS}
        for cap in caps:
            for work in WORKS:
                if not options.time_for(2 * (options.seconds + options.warm_s) + 8):
                    left += 1
                    continue
                rows += _cell(made, work, cap, whole[work.name])
                pause()
    if left:
        rows.append(Figure("cells not measured", left, "", "time was up; the 50 % column comes first"))
    return rows


def _cell(made: Bench, work: Work, cap: int, whole: Sequence[float]) -> list[Figure]:
    limit = 5.0 if work.ns >= 1e8 else 2.0
    alone = made.alone(work, Cap(cores=cap))
    beside = made.rates([(work, made.limited(Cap(cores=cap))), (NEIGHBOUR, made.limited(Cap(cores=0)))])[0]
    where = f"{made.options.source}; kernels done in % of the uncapped rate"
    windows = percentile([abs(percent([window], whole) - cap) for window in beside], 0.95)
    return [
        Figure(f"{work.name} at {cap} %, alone", percent(alone, whole), "%", f"{where}; does not count"),
        Figure(
            f"{work.name} at {cap} %, error beside a busy neighbour",
            abs(percent(beside, whole) - cap),
            "points",
            f"{where} ({statistics.fmean(beside):.4g}/s); mean of {len(beside)} s",
            goal=at_most(limit),
        ),
        Figure(f"{work.name} at {cap} %, 1 s windows beside a neighbour", windows, "points", f"{where}; 95th percentile"),
    ]
