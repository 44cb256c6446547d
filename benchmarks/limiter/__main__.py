"""``python -m benchmarks.limiter [PART …] [--quick]``: measures, prints tables, writes ``build/bench/limiter.json``.

A part is a module of this package with ``figures(options)``. Exit status 0 when everything was measured, whether goals are met or
not; 2 when something cannot be measured as asked, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks._report import Figure, report
from benchmarks.limiter.options import CannotMeasure, Options

AREA: Final = "limiter"
PARTS: Final = ("instructions", "memory", "preload", "share")


def read_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], Options]:
    """Parts to run and their options. Exits with status 2 and words for what cannot be meant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limiter", description="Measure the limiter.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; without any: all")
    parser.add_argument("--quick", action="store_true", help="a part of each sweep; figures say so")
    given = parser.parse_args(words)
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    return tuple(given.parts) or PARTS, Options(quick=given.quick)


def measure(part: str, options: Options) -> Sequence[Figure]:
    """Figures of one part."""
    figures: Sequence[Figure] = importlib.import_module(f"benchmarks.limiter.{part}").figures(options)
    return figures


def main() -> None:
    """Entry point."""
    parts, options = read_arguments(sys.argv[1:])
    try:
        for part in parts:
            path = report(AREA, part, measure(part, options))
    except CannotMeasure as error:
        print(f"mica: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mica: interrupted; figures of finished parts are kept", file=sys.stderr)
        sys.exit(130)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
