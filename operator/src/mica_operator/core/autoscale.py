"""How many replicas a service needs: a pure step from demand and time to a number. No I/O, no clock.

Demand D is what the routers have in flight and in their queues: exact, and known at zero replicas. Wanted is
``ceil(smoothed D / target)``. Scaling up is immediate. Scaling down takes one replica at a time, and only when fewer would have
been enough during the whole window. The last replica goes only after the idle time, which runs from when it was ready for the
first time: a replica that never became ready is never taken away, and one that no longer answers does not stay for ever. Demand
that is unknown changes nothing: a missing number is not zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

_SMOOTHING_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the user wants. ``target``: requests per replica. Times in seconds."""

    minimum: int
    maximum: int
    target: int
    idle_s: float
    window_s: float


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests of one service at all routers. ``complete``: whether every router answered; else it is a lower bound."""

    in_flight: int = 0
    queued: int = 0
    complete: bool = True

    @property
    def total(self) -> int:
        """Both together."""
        return self.in_flight + self.queued


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one step leaves for the next: fewer replicas were enough ``low_since``, there was no request ``idle_since``.

    ``served``: a replica was ready since there was none the last time.
    """

    smoothed: float = 0.0
    at: float | None = None
    low_since: float | None = None
    idle_since: float | None = None
    served: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Replicas to have from now on, and why."""

    replicas: int
    reason: str


def step(
    memory: Memory, bounds: Bounds, *, current: int, ready: int, demand: Demand | None, now: float
) -> tuple[Memory, Verdict]:
    """One look. ``current`` counts replicas that are asked for, ready or not: those on their way are capacity already."""
    held = min(max(current, bounds.minimum), bounds.maximum)
    memory = replace(memory, served=held > 0 and (memory.served or ready > 0))
    if demand is None:
        # The waits begin anew: nobody knows what happened meanwhile.
        return replace(memory, low_since=None, idle_since=None), Verdict(held, "the demand is not known")
    memory = _smoothed(memory, demand, now)
    needed = math.ceil(max(memory.smoothed, demand.total if held == 0 else 0.0) / bounds.target - 1e-9)
    wanted = min(max(needed, bounds.minimum, 1 if demand.total else 0), bounds.maximum)
    if wanted > held:
        return replace(memory, low_since=None, idle_since=None), Verdict(wanted, _why(demand, bounds))
    if not demand.complete:
        return replace(memory, low_since=None, idle_since=None), Verdict(held, "not every router answers")
    memory = _waits(memory, low=wanted < held, idle=demand.total == 0 and memory.served, now=now)
    return memory, _down(memory, bounds, held=held, wanted=wanted, demand=demand, now=now)


def _down(memory: Memory, bounds: Bounds, *, held: int, wanted: int, demand: Demand, now: float) -> Verdict:
    if wanted >= held:
        return Verdict(held, _why(demand, bounds))
    if held > 1:
        waited = memory.low_since is not None and now - memory.low_since >= bounds.window_s
        return Verdict(held - 1 if waited else held, _why(demand, bounds))
    idle = memory.idle_since is not None and now - memory.idle_since >= bounds.idle_s
    return Verdict(0 if idle else 1, "idle" if idle else "the last replica stays until it was idle for the idle time")


def after(memory: Memory, *, before: int, verdict: Verdict) -> Memory:
    """Memory once the verdict is carried out: each step down waits for a window of its own."""
    return replace(memory, low_since=None, idle_since=None) if verdict.replicas != before else memory


def _smoothed(memory: Memory, demand: Demand, now: float) -> Memory:
    """Exponential average over a quarter of a minute; a rise counts at once, a fall is smoothed."""
    total = float(demand.total)
    if memory.at is None or total >= memory.smoothed:
        return replace(memory, smoothed=total, at=now)
    weight = 1.0 - math.exp(-max(now - memory.at, 0.0) / _SMOOTHING_S)
    smoothed = memory.smoothed + (total - memory.smoothed) * weight
    # Half a request is none: an average never reaches zero by itself.
    return replace(memory, smoothed=0.0 if not total and smoothed < 0.5 else smoothed, at=now)


def _waits(memory: Memory, *, low: bool, idle: bool, now: float) -> Memory:
    return replace(
        memory,
        low_since=(memory.low_since if memory.low_since is not None else now) if low else None,
        idle_since=(memory.idle_since if memory.idle_since is not None else now) if idle else None,
    )


def _why(demand: Demand, bounds: Bounds) -> str:
    return f"{demand.in_flight} requests in flight and {demand.queued} queued, {bounds.target} per replica"
