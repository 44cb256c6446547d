"""GPU and CPU tiers of one model as values: engines as they are right now, and what they are together.

An engine's own numbers (`EngineGauges`) are a snapshot of some moment and are left out of everything once they are too old: a
missing number is unknown, not zero. What the router itself counts is always current. Sums are weighted by what an engine can work
on at once, so a small engine that is full does not make a large tier look half full. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Tier

GPU: Final[Tier] = "gpu"
CPU: Final[Tier] = "cpu"
TIERS: Final = (GPU, CPU)


def other(tier: Tier) -> Tier:
    """The opposite tier."""
    return CPU if tier == GPU else GPU


class EngineView(NamedTuple):
    """One engine that may be used. `in_flight`: requests that routers have there; `capacity`: requests that it works on at once.

    `gauges` is None when there are none or they are stale. A tuple, because some are made for every request.
    """

    in_flight: int
    capacity: float
    gauges: EngineGauges | None = None


class TierView(NamedTuple):
    """A tier in sums.

    `busy`: requests there, those of other clients included. `waiting`: of these, what no engine has begun. `free`: requests that
    could begin at once. `kv_percent` is 0 to 100, `generation_rate` tokens per second; None when unknown.
    """

    engines: int = 0
    in_flight: int = 0
    busy: float = 0
    waiting: float = 0
    capacity: float = 0
    free: float = 0
    kv_percent: float | None = None
    generation_rate: float | None = None

    @property
    def ready(self) -> bool:
        """Whether any engine may be used."""
        return self.engines > 0

    @property
    def saturation(self) -> float:
        """Busy requests by capacity; above 1 some wait."""
        return self.busy / self.capacity if self.capacity else 0.0

    @property
    def full(self) -> bool:
        """Whether another request would have to wait, or no engine is there."""
        return self.free <= 0


def tier_view(engines: Iterable[EngineView]) -> TierView:
    """Sum up the engines of one tier that may be used. One pass, because it is done for every request."""
    count = in_flight = 0
    busy = waiting = capacity = free = 0.0
    kv = kv_weight = speed = 0.0
    told_speed = False
    for there, room, gauges in engines:
        count += 1
        in_flight += there
        capacity += room
        if gauges is None:
            busy_here: float = there
            waits = max(there - room, 0.0)
        else:
            busy_here, waits = _told(there, room, gauges)
            if gauges.kv_percent is not None:
                kv += gauges.kv_percent * room
                kv_weight += room
            if gauges.generation_rate is not None:
                speed += gauges.generation_rate
                told_speed = True
        busy += busy_here
        waiting += waits
        if not waits and room > busy_here:
            free += room - busy_here
    return TierView(
        count,
        in_flight,
        busy,
        waiting,
        capacity,
        free,
        kv / kv_weight if kv_weight else None,
        speed if told_speed else None,
    )


def _told(in_flight: int, capacity: float, gauges: EngineGauges) -> tuple[float, float]:
    """Busy and waiting requests: what the router counts, or more when the engine says so (other clients, other routers).

    While any wait there, an engine has no room, whatever its capacity is said to be.
    """
    said = gauges.waiting or 0.0
    return max(in_flight, (gauges.running or 0.0) + said), max(in_flight - capacity, said, 0.0)
