"""``python -m benchmarks.scheduler [PART …] [--openb DIR]``: measures, prints tables, writes ``build/bench/scheduler.json``.

Exit status 0 when everything was measured, whether goals are met or not; 2 when something cannot be measured as asked,
130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks._report import Figure, report
from benchmarks.scheduler.options import CannotMeasure, Options
from mica_box.errors import BoxError

AREA: Final = "scheduler"
PARTS: Final = ("speed", "packing", "throughput")


def read_arguments(words: Sequence[str], environment: Mapping[str, str]) -> tuple[tuple[str, ...], Options]:
    """Parts to run and their options. Exits with status 2 and words for what cannot be meant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description="Measure the scheduler.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; without any: all")
    parser.add_argument("--openb", type=Path, metavar="DIR", help="folder of the openb trace, for packing (or MICA_OPENB)")
    given = parser.parse_args(words)
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    from_environment = environment.get("MICA_OPENB")
    openb = given.openb or (Path(from_environment) if from_environment else None)
    return tuple(given.parts) or PARTS, Options(openb=openb)


def measure(part: str, options: Options) -> Sequence[Figure]:
    """Figures of one part."""
    figures: Sequence[Figure] = importlib.import_module(f"benchmarks.scheduler.{part}").figures(options)
    return figures


def main() -> None:
    """Entry point."""
    parts, options = read_arguments(sys.argv[1:], os.environ)
    try:
        if "packing" in parts:
            options.trace()
        for part in parts:
            path = report(AREA, part, measure(part, options))
    except (CannotMeasure, BoxError) as error:
        print(f"mica: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mica: interrupted; nothing is left running, figures of finished parts are kept", file=sys.stderr)
        sys.exit(130)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
