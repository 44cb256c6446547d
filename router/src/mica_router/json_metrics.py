"""sysHAX's JSON view of the engines' metrics, for its users' scripts. Everybody else reads `/metrics`. Pure.

One GPU tier and one CPU tier over all models: counts and speeds are summed, cache usage is averaged. What no engine of a tier
told is 0, as it is there; `engines` says how many told anything, and `last_update` when the oldest of it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Endpoint, Tier
from mica_router.core.routes import RouteTable
from mica_router.core.tiers import TIERS

_SUMS: Final = {
    "num_running": "running",
    "num_waiting": "waiting",
    "num_swapped": "swapped",
    "prompt_throughput": "prompt_rate",
    "generation_throughput": "generation_rate",
}


def metrics_view(
    table: RouteTable, *, gauges: Callable[[Endpoint], EngineGauges | None], now: float, ratio: float | None
) -> dict[str, Any]:
    """The view at `now` (seconds since the epoch). `cache_usage` is 0 to 100; `ratio`: the GPU tier's lead at the start."""
    said = {tier: [one for engine in _engines(table, tier) if (one := gauges(engine)) is not None] for tier in TIERS}
    ages = [one.age for found in said.values() for one in found]
    return {
        **{tier: _tier(found) for tier, found in said.items()},
        "system": {"last_update": round(now - max(ages), 3) if ages else None, "performance_ratio": ratio},
    }


def _engines(table: RouteTable, tier: Tier) -> list[Endpoint]:
    engines = [engine for route in table.by_key.values() for engine in route.service.engines]
    return list(dict.fromkeys(engine.endpoint for engine in engines if engine.tier == tier))


def _tier(found: Iterable[EngineGauges]) -> dict[str, float]:
    told = list(found)
    cache = [one.kv_percent for one in told if one.kv_percent is not None]
    sums = {name: round(sum(getattr(one, field) or 0.0 for one in told), 3) for name, field in _SUMS.items()}
    return {"engines": len(told), "cache_usage": round(sum(cache) / len(cache), 3) if cache else 0.0, **sums}
