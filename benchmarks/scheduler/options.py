"""What a part of the scheduler benchmark is told. A part is a module of this package with ``figures(options)``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks._command import CannotMeasure


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of the command line. ``openb`` is the folder with the openb trace, which is not part of this repository."""

    openb: Path | None = None

    def trace(self) -> Path:
        """Folder of the trace. Raises CannotMeasure when it was not given or does not exist."""
        if self.openb is None:
            raise CannotMeasure(
                "packing replays the openb trace, which is not part of this repository: "
                "give its folder with --openb DIR or MICA_OPENB=DIR (benchmarks/README.md says where to get it)"
            )
        if not self.openb.is_dir():
            raise CannotMeasure(
                f"{self.openb} is not a folder: give the folder of the openb trace with --openb DIR or MICA_OPENB=DIR"
            )
        return self.openb
