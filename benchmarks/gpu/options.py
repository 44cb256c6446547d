"""What an experiment is told, and how it says that it cannot be run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure

ROOT: Final = Path(__file__).parents[2]
PART_LIMIT_S: Final = 570.0


class Skipped(Exception):
    """This part cannot be run here, others can; the message says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """``simulated``: a dry run on the simulated card. A cell is measured for ``seconds`` after ``warm_s``."""

    simulated: bool = False
    seconds: float = 10.0
    warm_s: float = 2.0
    repeats: int = 3
    build: Path = ROOT / "build" / "shim"
    begun: float = field(default_factory=time.monotonic)

    def file(self, name: str) -> Path:
        """A built file. Raises CannotMeasure when it was not built."""
        path = self.build / name
        if not path.is_file():
            raise CannotMeasure(f"{path} is missing: run `make shim`")
        return path

    def time_for(self, seconds: float) -> bool:
        """Whether a cell of that length still fits into the ten minutes of its part."""
        return time.monotonic() - self.begun + seconds < PART_LIMIT_S

    @property
    def source(self) -> str:
        """Where the figures come from, in words."""
        mode = "" if self.has_arbiter else ", without an arbiter"
        return ("simulated card, dry run" if self.simulated else "real GPU") + mode

    @property
    def has_arbiter(self) -> bool:
        """Whether the process that lends the card out in turns was built."""
        return (self.build / "mica-arbiter").is_file()


def dry(build: Path = ROOT / "build" / "shim") -> Options:
    """Options of a dry run: enough to see that everything works."""
    return Options(simulated=True, seconds=1.0, warm_s=0.2, repeats=1, build=build)
