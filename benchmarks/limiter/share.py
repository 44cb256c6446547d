"""Part ``share``: how close a container's share of a card's time is to what it was promised. Simulated cards, virtual clock.

Every cell runs eleven virtual seconds beside a busy neighbour; the first is warm-up. The error of a cell is the distance of the
share received (by the simulator's counters, which the limiter cannot see) from the cap, in points of the card's time. A figure is
the worst cell of its group.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from benchmarks._report import Anchor, Figure, Goal, at_most
from benchmarks.limiter.options import Options
from benchmarks.limiter.rig import Change, Outcome, Scene, Tenant, play

Keys = tuple[tuple[str, str], ...]

_SECONDS: Final = 11
_WARM_UP: Final = 1
_WORKERS: Final = 2
_CARD: Final = (("noise_permille", "50"), ("completion_ns", "5000"))
_NEIGHBOUR: Final = Tenant("neighbour", "--kernel-us 20000 --depth 0")
_SHORT: Final = (5, 50, 200, 1000, 5000, 20000)
_CAPS: Final = (10, 30, 50, 70, 90)
_SLICES: Final = (500, 2000, 10000, 30000)
_BIMODAL: Final = "--kernel-us 50 --long-us 20000 --long-permille 100 --streams 4 --depth 1000"


@dataclass(frozen=True, slots=True)
class Cell:
    """One scene and the tenants in it that were promised something, in percent."""

    group: str
    name: str
    scene: Scene
    promised: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Errors of one cell in points: of the mean, and of 19 in 20 windows of a second."""

    cell: Cell
    mean: float
    window: float
    shares: tuple[float, ...]


def _scene(*tenants: Tenant, slice_us: int, arbiter: bool = True, card: Keys = ()) -> Scene:
    keys = (*_CARD, ("slice_us", str(slice_us)), *card)
    return Scene(tenants, seconds=_SECONDS, card=keys, arbiter=arbiter)


def _against_neighbour(group: str, what: str, args: str, *, cap: int, slice_us: int, processes: int = 1) -> Cell:
    scene = _scene(Tenant("capped", args, cores=cap, processes=processes), _NEIGHBOUR, slice_us=slice_us)
    return Cell(group, f"{what}, {cap} %, slice {slice_us / 1000:g} ms", scene, (("capped", cap),))


def _pair(group: str, what: str, args: str, *, slice_us: int, arbiter: bool = True, card: Keys = ()) -> Cell:
    scene = _scene(Tenant("a", args, cores=30), Tenant("b", args, cores=70), slice_us=slice_us, arbiter=arbiter, card=card)
    return Cell(group, f"{what}, slice {slice_us / 1000:g} ms", scene, (("a", 30), ("b", 70)))


def cells(*, quick: bool) -> list[Cell]:
    """All cells of the sweep, or a part of each group."""
    slices = (2000,) if quick else _SLICES
    caps = (10, 90) if quick else _CAPS
    found = []
    for us, cap, slice_us in itertools.product((5, 200, 20000) if quick else _SHORT, caps, slices):
        found.append(_against_neighbour("kernels", f"{us} µs", f"--kernel-us {us} --depth 64", cap=cap, slice_us=slice_us))
    for (us, nodes), cap, slice_us in itertools.product(((50, 20), (1000, 12)), caps, slices):
        args = f"--kernel-us {us} --graph {nodes} --depth 8"
        found.append(_against_neighbour("graphs", f"graph of {nodes} × {us} µs", args, cap=cap, slice_us=slice_us))
    for cap, slice_us in itertools.product(caps, slices):
        found.append(_against_neighbour("long", "300 ms", "--kernel-us 300000 --depth 2", cap=cap, slice_us=slice_us))
    for slice_us in slices:
        found += _cases(slice_us)
    if not quick:
        unkind = (("switch_us", "100"), ("completion_ns", "50000"), ("inflation_permille", "300"))
        found.append(_pair("pairs", "5 ms, unkind card", "--kernel-us 5000", slice_us=2000, card=unkind))
    return found


def _cases(slice_us: int) -> list[Cell]:
    """The three cases that budgets get wrong, and two tenants without arbiter as the anchor."""
    long = Tenant("neighbour", "--kernel-us 300000 --depth 1")
    bursty = "--kernel-us 200 --depth 16 --pause-us 2000"
    single = _scene(Tenant("capped", "--kernel-us 200", cores=30), long, slice_us=slice_us)
    eight = _scene(Tenant("capped", bursty, cores=30, processes=8), long, slice_us=slice_us)
    end = f"slice {slice_us / 1000:g} ms"
    return [
        _pair("pairs", "5 ms", "--kernel-us 5000", slice_us=slice_us),
        _pair("pairs", "20 ms", "--kernel-us 20000", slice_us=slice_us),
        _pair("bimodal", "30/70", _BIMODAL, slice_us=slice_us),
        _against_neighbour("bimodal", "50 µs / 20 ms", _BIMODAL, cap=50, slice_us=slice_us),
        Cell("beside 300 ms", f"200 µs, 30 %, {end}", single, (("capped", 30),)),
        Cell("beside 300 ms", f"8 bursty processes, 200 µs, 30 %, {end}", eight, (("capped", 30),)),
        _pair("no arbiter", "20 ms", "--kernel-us 20000", slice_us=slice_us, arbiter=False),
    ]


def judge(cell: Cell, outcome: Outcome) -> Measured:
    """Errors of a cell."""
    means = tuple(outcome.mean(name, skip=_WARM_UP) for name, _ in cell.promised)
    off = max(abs(mean - share) for mean, (_, share) in zip(means, cell.promised, strict=True))
    windows = sorted(abs(w - share) for name, share in cell.promised for w in outcome.windows(name, skip=_WARM_UP))
    return Measured(cell, off, windows[min(len(windows) - 1, int(len(windows) * 0.95))], means)


def measure(found: Sequence[Cell], options: Options, *, tell: Callable[[Measured], None] = lambda _: None) -> list[Measured]:
    """Run cells, two at a time."""

    def one(cell: Cell) -> Measured:
        measured = judge(cell, play(cell.scene, options))
        tell(measured)
        return measured

    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(one, found))


def resize_s(options: Options) -> float:
    """Worst time from a change of the limits until a second begins whose share is within 3 points: 30 → 70 → 20 %."""
    changes = (Change(3.0, "capped", 70), Change(6.0, "capped", 20))
    tenants = (Tenant("capped", "--kernel-us 1000", cores=30), _NEIGHBOUR)
    outcome = play(Scene(tenants, seconds=9, every_ms=20, card=_CARD, changes=changes), options)
    return max(_settles(outcome, change, until=change.at_s + 3) for change in changes)


def _settles(outcome: Outcome, change: Change, *, until: float) -> float:
    """When the first second begins whose share is right. How shares waver later is what the figures of windows say."""
    step = outcome.every_s
    series = [0.0, *outcome.busy_s[change.tenant]]
    at = change.at_s
    while at + 1 <= until:
        share = 100 * (series[round((at + 1) / step)] - series[round(at / step)])
        if abs(share - change.cores) <= 3:
            return at - change.at_s
        at += step
    return until - change.at_s


def reaction_s(options: Options) -> float:
    """From the first launch of a high class until a low one, busy with 20 ms kernels, is at its floor, in seconds."""
    start = 3.0
    high = Tenant("high", "--kernel-us 5000 --depth 0", priority="high", start_s=start)
    low = Tenant("low", "--kernel-us 20000 --depth 0", priority="low")
    outcome = play(Scene((low, high), seconds=6, every_ms=10, card=_CARD), options)
    series = outcome.busy_s["low"]
    at = round(start / outcome.every_s)
    quiet = round(0.4 / outcome.every_s)  # at a floor of 2 % a 20 ms kernel comes once a second
    while series[min(at + quiet, len(series) - 1)] - series[at] > 1e-6:
        at += 1
    return at * outcome.every_s - start


def floor_share(options: Options) -> float:
    """What a low class gets beside a high one that is always busy, in percent."""
    tenants = (
        Tenant("low", "--kernel-us 5000 --depth 0", priority="low"),
        Tenant("high", "--kernel-us 5000 --depth 0", priority="high"),
    )
    return play(Scene(tenants, seconds=_SECONDS, card=_CARD), options).mean("low", skip=_WARM_UP)


_GROUPS: Final[dict[str, tuple[str, Goal | None]]] = {
    "kernels": ("kernels of 5 µs to 20 ms beside a busy neighbour", at_most(2)),
    "graphs": ("graphs beside a busy neighbour", at_most(2)),
    "long": ("300 ms kernels beside a busy neighbour", at_most(5)),
    "pairs": ("two tenants 30/70, 5 and 20 ms kernels", at_most(2)),
    "bimodal": ("bimodal 50 µs/20 ms, queued on 4 streams", at_most(2)),
    "beside 300 ms": ("200 µs kernels, also bursty in 8 processes, beside a 300 ms neighbour", at_most(2)),
    "no arbiter": ("two tenants 30/70 without an arbiter (event intervals only)", None),
}
_ANCHORS: Final = {
    "pairs": Anchor(11.9, "a budget by event intervals: 18.6/58.1 of 30/70 (toy model, 20 ms kernels)"),
    "kernels": Anchor(67.2, "HAMi-core alone at a cap of 30: 97.2 (model, 20 ms kernels)"),
    "graphs": Anchor(50.0, "HAMi-core: graphs are not limited, cap 50 gets 100 (model)"),
    "long": Anchor(79.8, "HAMi-core alone at a cap of 10: 89.8 (model)"),
}


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    measured = measure(cells(quick=options.quick), options)
    found = []
    for group, (what, goal) in _GROUPS.items():
        mine = [m for m in measured if m.cell.group == group]
        worst, windows = max(mine, key=lambda m: m.mean), max(m.window for m in mine)
        shares = "/".join(f"{share:.1f}" for share in worst.shares)
        how = f"simulated; mean over 10 s, worst of {len(mine)} cells: {worst.cell.name} got {shares}"
        found.append(Figure(f"share error: {what}", worst.mean, "points", how, anchor=_ANCHORS.get(group), goal=goal))
        how = f"simulated; 95th percentile of windows of 1 s, worst of {len(mine)} cells"
        found.append(Figure(f"share error in 1 s: {what}", windows, "points", how))
    how = (
        "simulated; limits file rewritten under a running program (1 ms kernels, busy neighbour), until a second within 3 points"
    )
    found.append(Figure("live resize settles", resize_s(options), "s", how, goal=at_most(1)))
    how = "simulated; 20 ms kernels of the low class, until it is at its floor; high class from its first launch"
    found.append(
        Figure("priority reaction", 1000 * reaction_s(options), "ms", how, Anchor(5000, "HAMi: 5 to 10 s"), at_most(200))
    )
    found.append(Figure("floor of a low class", floor_share(options), "% of the card", "simulated; 5 ms kernels on both sides"))
    return found
