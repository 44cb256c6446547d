"""GPU and CPU tiers of one model as values: engines as they are right now, and what they are together.

An engine's own numbers (`EngineGauges`) are a snapshot of some moment and are left out of everything once they are too old: a
missing number is unknown, not zero. What the router itself counts is always current. Sums are weighted by what an engine can work
on at once, so a small engine that is full does not make a large tier look half full. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Tier

GPU: Final[Tier] = "gpu"
CPU: Final[Tier] = "cpu"
TIERS: Final = (GPU, CPU)


def other(tier: Tier) -> Tier:
    """The opposite tier."""
    return CPU if tier == GPU else GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """One engine that may be used. `in_flight`: requests that routers have there; `capacity`: requests that it works on at once.

    `gauges` is None when there are none or they are stale.
    """

    name: str
    in_flight: int
    capacity: float
    gauges: EngineGauges | None = None

    @property
    def busy(self) -> float:
        """Requests there: what the router counts, or more when the engine says so (other clients, other routers)."""
        gauges = self.gauges
        if gauges is None:
            return self.in_flight
        return max(self.in_flight, (gauges.running or 0) + (gauges.waiting or 0))

    @property
    def waiting(self) -> float:
        """Requests that the engine has not begun: those beyond its capacity, or more when it says so."""
        said = self.gauges.waiting if self.gauges is not None else None
        return max(self.in_flight - self.capacity, said or 0, 0)

    @property
    def free(self) -> float:
        """Requests that it could begin at once; none while others wait there, whatever its capacity is said to be."""
        return 0 if self.waiting else max(self.capacity - self.busy, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierView:
    """A tier in sums. `saturation` is busy requests by capacity (above 1: some wait); `kv_percent` is 0 to 100,
    `generation_rate` tokens per second; None when unknown."""

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
        """Busy by capacity."""
        return self.busy / self.capacity if self.capacity else 0.0

    @property
    def full(self) -> bool:
        """Whether another request would have to wait, or no engine is there."""
        return self.free <= 0


def tier_view(engines: Iterable[EngineView]) -> TierView:
    """Sum up the engines of one tier that may be used."""
    found = tuple(engines)
    if not found:
        return _EMPTY
    kv = [(gauges.kv_percent, engine.capacity) for engine in found if (gauges := engine.gauges) is not None]
    known = [(percent, weight) for percent, weight in kv if percent is not None]
    speeds = [gauges.generation_rate for engine in found if (gauges := engine.gauges) is not None]
    said = [speed for speed in speeds if speed is not None]
    return TierView(
        engines=len(found),
        in_flight=sum(engine.in_flight for engine in found),
        busy=sum(engine.busy for engine in found),
        waiting=sum(engine.waiting for engine in found),
        capacity=sum(engine.capacity for engine in found),
        free=sum(engine.free for engine in found),
        kv_percent=sum(percent * weight for percent, weight in known) / sum(weight for _, weight in known) if known else None,
        generation_rate=sum(said) if said else None,
    )


_EMPTY = TierView()
