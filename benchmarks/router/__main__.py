"""``python -m benchmarks.router [PART …] [--peers NAMES]``: measures, prints tables, writes ``build/bench/router.json``.

Exit status 0 when everything was measured, whether goals are met or not; 2 when something cannot be measured as asked,
130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks._report import Figure, report
from benchmarks.router.contenders import PEERS
from benchmarks.router.options import CannotMeasure, Options

AREA: Final = "router"
PARTS: Final = ("speed", "memory", "instructions")


def read_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], Options]:
    """Parts to run and their options. Exits with status 2 and words for what cannot be meant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description="Measure the router.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; without any: all")
    parser.add_argument("--peers", default=",".join(PEERS), metavar="NAMES", help=f"of {', '.join(PEERS)}; none: only ours")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one load")
    given = parser.parse_args(words)
    peers = tuple(name for name in given.peers.split(",") if name and name != "none")
    for what, names, known in (("part", given.parts, PARTS), ("peer", peers, tuple(PEERS))):
        unknown = [name for name in names if name not in known]
        if unknown:
            parser.error(f"no {what} {unknown[0]!r}; there are: {', '.join(known)}")
    if given.rounds < 1 or given.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return tuple(given.parts) or PARTS, Options(peers=peers, rounds=given.rounds, seconds=given.seconds)


def measure(part: str, options: Options) -> Sequence[Figure]:
    """Figures of one part."""
    figures: Sequence[Figure] = importlib.import_module(f"benchmarks.router.{part}").figures(options)
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
        print("mica: interrupted; nothing is left running, figures of finished parts are kept", file=sys.stderr)
        sys.exit(130)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
