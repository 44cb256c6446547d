"""What a part of the router benchmark is told. A part is a module of this package with ``figures(options)``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of the command line. ``peers``: which other routers to measure. ``rounds``: interleaved repetitions."""

    peers: tuple[str, ...]
    rounds: int = 3
    seconds: float = 4.0
