"""The command line that benchmarks share: which parts to run, how they are run, and what is said when one cannot be.

``python -m benchmarks.AREA [PART …]``: exit status 0 when everything was measured, whether goals are met or not; 2 when something
cannot be measured as asked, 130 when interrupted. A part is a module of the area's package with ``figures(options)``. What an
area's options are is its own business.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from benchmarks._report import Figure, report

CANNOT_MEASURE: Final = 2
INTERRUPTED: Final = 130


class CannotMeasure(Exception):
    """Nothing can be measured as asked; the message says what to do."""


def parser(area: str, description: str, parts: Sequence[str]) -> argparse.ArgumentParser:
    """Parser of an area's command line that knows its parts, for the area to add its options to."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{area}", description=description)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; without any: all")
    return made


def known(made: argparse.ArgumentParser, what: str, given: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The names that were given. Exits with status 2 and words for the first that is not one of ``names``."""
    unknown = [name for name in given if name not in names]
    if unknown:
        made.error(f"no {what} {unknown[0]!r}; there are: {', '.join(names)}")
    return tuple(given)


def figures(area: str, part: str, options: object) -> Sequence[Figure]:
    """Figures of one part. Raises CannotMeasure."""
    found: Sequence[Figure] = importlib.import_module(f"benchmarks.{area}.{part}").figures(options)
    return found


def run(area: str, parts: Sequence[str], options: object) -> None:
    """Measure the parts one after the other and write down what was found. Exits where that is not possible."""
    try:
        for part in parts:
            path = report(area, part, figures(area, part, options))
    except CannotMeasure as error:
        stop(error)
    except KeyboardInterrupt:
        interrupted()
    print(f"written to {path}")


def stop(error: CannotMeasure) -> NoReturn:
    """Say why nothing can be measured, and end."""
    print(f"mica: {error}", file=sys.stderr)
    sys.exit(CANNOT_MEASURE)


def interrupted() -> NoReturn:
    """Say what an interrupt leaves, and end."""
    print("mica: interrupted; nothing is left running, figures of finished parts are kept", file=sys.stderr)
    sys.exit(INTERRUPTED)
