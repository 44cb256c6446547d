"""11.7: what a new process finds in memory that another one left behind. Measured and reported; the driver decides."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._report import Figure
from benchmarks.gpu.bench import Cap, bench
from benchmarks.gpu.options import Options, Skipped


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part. Raises Skipped on the simulated card, whose memory has no content."""
    if options.simulated:
        raise Skipped("the simulated card's memory has no content")
    with bench(options) as made:
        written = made.ask("pattern", "write", env=made.limited(Cap(cores=0)))["written"]
        found = made.ask("pattern", "read", env=made.limited(Cap(cores=0)))
    how = f"{options.source}; {written >> 20} MiB written, then read by a new process in another slice"
    return [
        Figure("bytes of another process found", found["found"], "B", how),
        Figure("bytes that were zero", found["zeros"], "B", how),
    ]
