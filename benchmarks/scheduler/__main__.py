"""``python -m benchmarks.scheduler [PART …] [--openb DIR]``: measures, prints tables, writes ``build/bench/scheduler.json``.

Exit statuses are those of ``benchmarks._command``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import _command
from benchmarks._command import CannotMeasure
from benchmarks.scheduler.options import Options
from mica_box.errors import BoxError

AREA: Final = "scheduler"
PARTS: Final = ("speed", "topology", "packing", "throughput")


def read_arguments(words: Sequence[str], environment: Mapping[str, str]) -> tuple[tuple[str, ...], Options]:
    """Parts to run and their options. Exits with status 2 and words for what cannot be meant."""
    parser = _command.parser(AREA, "Measure the scheduler.", PARTS)
    parser.add_argument("--openb", type=Path, metavar="DIR", help="folder of the openb trace, for packing (or MICA_OPENB)")
    given = parser.parse_args(words)
    from_environment = environment.get("MICA_OPENB")
    openb = given.openb or (Path(from_environment) if from_environment else None)
    return _command.known(parser, "part", given.parts, PARTS) or PARTS, Options(openb=openb)


def main() -> None:
    """Entry point. A trace that is missing is said before anything is measured."""
    parts, options = read_arguments(sys.argv[1:], os.environ)
    try:
        if "packing" in parts:
            options.trace()
        _command.run(AREA, parts, options)
    except CannotMeasure as error:
        _command.stop(error)
    except BoxError as error:
        _command.stop(CannotMeasure(str(error)))


if __name__ == "__main__":
    main()
