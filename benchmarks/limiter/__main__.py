"""``python -m benchmarks.limiter [PART …] [--quick]``: measures, prints tables, writes ``build/bench/limiter.json``.

Exit statuses are those of ``benchmarks._command``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from benchmarks import _command
from benchmarks.limiter.options import Options

AREA: Final = "limiter"
PARTS: Final = ("instructions", "memory", "preload", "share")


def read_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], Options]:
    """Parts to run and their options. Exits with status 2 and words for what cannot be meant."""
    parser = _command.parser(AREA, "Measure the limiter.", PARTS)
    parser.add_argument("--quick", action="store_true", help="a part of each sweep; figures say so")
    given = parser.parse_args(words)
    return _command.known(parser, "part", given.parts, PARTS) or PARTS, Options(quick=given.quick)


def main() -> None:
    """Entry point."""
    parts, options = read_arguments(sys.argv[1:])
    _command.run(AREA, parts, options)


if __name__ == "__main__":
    main()
