"""11.6: limits that change under a running program: how long until its share is the new one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Final

from benchmarks._report import Figure, at_most
from benchmarks.gpu.bench import Bench, Cap, Work, bench
from benchmarks.gpu.options import Options

WORK: Final = Work("1 ms", 1e6, depth=4)
CHANGES: Final = ((30, 70), (70, 20), (20, 50))
WITHIN: Final = 3.0  # points


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part. Resolution is a second: the program counts by seconds."""
    with bench(options) as made:
        whole = statistics.fmean(made.alone(WORK, None))
        return [_change(made, old, new, whole) for old, new in CHANGES]


def _change(made: Bench, old: int, new: int, whole: float) -> Figure:
    env = made.limited(Cap(cores=old))
    before, after = (2, 4) if made.options.simulated else (4, 8)
    with made.running([(WORK, env)], seconds=before + after) as programs:
        programs[0].go()
        time.sleep(before)
        made.resize(env, Cap(cores=new), generation=2)
        windows = programs[0].windows()[before:]
    shares = [100 * window / whole for window in windows]
    settled = next((second for second, share in enumerate(shares) if abs(share - new) <= WITHIN), len(shares))
    seen = ", ".join(f"{share:.0f}" for share in shares)
    how = f"{made.options.source}; whole seconds before the first within {WITHIN:.0f} points: {seen} %"
    return Figure(f"settled after {old} → {new} %", settled, "s", how, goal=at_most(1))
