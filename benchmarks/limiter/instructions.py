"""What the limiter adds to a driver call: instructions, system calls, nanoseconds; beside a driver that does next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks._report import Anchor, Figure, Goal, at_most
from benchmarks.limiter import counts
from benchmarks.limiter.counts import Setting
from benchmarks.limiter.options import Options

HAMI: Final = "HAMi-core 8f3a89c, default build, same method"
CALLGRIND: Final = "callgrind, calling thread, (11,000 − 1,000 calls) / 10,000, less the bare driver's"
UNCAPPED: Final = 0
CAPPED: Final = 50


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    open_, gated = counts.limited(options, UNCAPPED), counts.limited(options, CAPPED)
    return [
        _added("launch, uncapped", "launch", 2, open_, at_most(60), Anchor(247, f"{HAMI}, cap 100 (unthrottled path)")),
        _added("launch, capped", "launch", 2, gated, at_most(150), Anchor(247, f"{HAMI}, cap 100: its throttled path is longer")),
        _added("launch, capped, contexts not followed", "private", 2, gated, None, None),
        _added("alloc + free, 2 live", "alloc", 2, open_, at_most(400), Anchor(1830, HAMI)),
        _added("alloc + free, 10,000 live", "alloc", 10_000, open_, at_most(400), Anchor(11689, f"{HAMI}, 1,000 live")),
        _added("cuMemGetInfo", "info", 2, open_, at_most(120), Anchor(452, HAMI)),
        *(_system(name, kind, setting) for name, kind, setting in _paths(open_, gated)),
        *(_time(name, kind, threads, setting) for name, kind, setting in _paths(open_, gated) for threads in (1, 8)),
    ]


def _paths(open_: Setting, gated: Setting) -> list[tuple[str, str, Setting]]:
    return [("launch, uncapped", "launch", open_), ("launch, capped", "launch", gated), ("cuMemGetInfo", "info", open_)]


def _added(name: str, kind: str, live: int, setting: Setting, goal: Goal | None, anchor: Anchor | None) -> Figure:
    bare = counts.per_call(kind, live, counts.bare())
    value = counts.per_call(kind, live, setting) - bare
    settled = "; settle batches included" if kind != "alloc" and setting.cores else ""
    how = f"{CALLGRIND} {bare:.0f}{settled}"
    return Figure(f"instructions added to {name}", value, "instructions", how, anchor=anchor, goal=goal)


def _system(name: str, kind: str, setting: Setting) -> Figure:
    """A look at the limits file every 100 ms is in it, so the goal is not exactly none."""
    how = "ptrace, calling thread, 10,000 calls after 10,000; a look at the limits file every 100 ms is in it"
    return Figure(f"system calls of {name}", counts.system_calls(kind, 2, setting), "per call", how, goal=at_most(0.01))


def _time(name: str, kind: str, threads: int, setting: Setting) -> Figure:
    value = counts.nanoseconds(kind, threads, setting) - counts.nanoseconds(kind, threads, counts.bare())
    how = f"median of 20,000 calls a thread, 5 µs apart, less the bare driver's; {threads} thread{'s' * (threads > 1)}"
    return Figure(f"time added to {name}, {threads} thread{'s' * (threads > 1)}", value, "ns", how)
