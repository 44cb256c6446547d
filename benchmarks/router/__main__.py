"""``python -m benchmarks.router [PART …] [--peers NAMES]``: measures, prints tables, writes ``build/bench/router.json``.

Exit statuses are those of ``benchmarks._command``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from benchmarks import _command
from benchmarks.router.contenders import PEERS
from benchmarks.router.options import Options

AREA: Final = "router"
PARTS: Final = ("speed", "memory", "instructions")


def read_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], Options]:
    """Parts to run and their options. Exits with status 2 and words for what cannot be meant."""
    parser = _command.parser(AREA, "Measure the router.", PARTS)
    parser.add_argument("--peers", default=",".join(PEERS), metavar="NAMES", help=f"of {', '.join(PEERS)}; none: only ours")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one load")
    given = parser.parse_args(words)
    parts = _command.known(parser, "part", given.parts, PARTS)
    named = [name for name in given.peers.split(",") if name and name != "none"]
    peers = _command.known(parser, "peer", named, tuple(PEERS))
    if given.rounds < 1 or given.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return parts or PARTS, Options(peers=peers, rounds=given.rounds, seconds=given.seconds)


def main() -> None:
    """Entry point."""
    parts, options = read_arguments(sys.argv[1:])
    _command.run(AREA, parts, options)


if __name__ == "__main__":
    main()
