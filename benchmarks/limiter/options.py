"""What a part of the limiter benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of the command line. ``quick`` runs a part of each sweep, ``build`` holds the built limiter and simulator.

    For a build with sanitizers, which only tests use: ``preload`` are their libraries, ``environment`` their settings.
    """

    quick: bool = False
    build: Path = ROOT / "build" / "shim"
    preload: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def file(self, name: str) -> Path:
        """A built file. Raises CannotMeasure when it was not built."""
        path = self.build / name
        if not path.is_file():
            raise CannotMeasure(f"{path} is missing: run `make shim`")
        return path
