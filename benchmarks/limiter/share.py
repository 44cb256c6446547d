"""Part ``share``: how close a container's share of a card's time is to what it was promised. Simulated cards, virtual clock."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._report import Figure, at_most
from benchmarks.limiter.options import Options
from benchmarks.limiter.rig import Scene, Tenant, play


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    tenants = (Tenant("a", "--kernel-us 20000", cores=30), Tenant("b", "--kernel-us 20000", cores=70))
    outcome = play(Scene(tenants), options)
    off = max(abs(outcome.mean("a") - 30), abs(outcome.mean("b") - 70))
    return [Figure("two tenants 30/70, share error", off, "points", "simulated, 20 ms kernels, mean over 10 s", goal=at_most(2))]
