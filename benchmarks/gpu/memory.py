"""11.2: how exact the cap is, family by family, beside what NVML says is gone from the card."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure, at_most
from benchmarks.gpu.bench import Bench, Cap, bench, card_used
from benchmarks.gpu.options import Options
from benchmarks.limiter.families import FAMILIES

CAP: Final = 8 << 30
PROGRAM: Final = Path(__file__).parents[1] / "limiter" / "families.py"
SIMULATED_ONLY: Final = {"module"}
"""The family's program loads an empty module, which only the simulated driver takes."""


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part; families for which time ran out are named in the last row."""
    rows, left = [], []
    with bench(options) as made:
        for family in FAMILIES:
            if family in SIMULATED_ONLY and not options.simulated:
                continue
            if not options.time_for(45):
                left.append(family)
                continue
            rows += _family(made, family)
    if left:
        rows.append(Figure("families not measured", len(left), "", f"time was up: {', '.join(left)}"))
    return rows


def _family(made: Bench, family: str) -> list[Figure]:
    where, name = made.options.source, family.replace("_", " ")
    before = card_used(made)
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), family, "1"],
        env=made.limited(Cap(cores=0, memory_mib=CAP >> 20)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _line(program)
        full = _next(program)
        shown = _next(program)["shown"]
        physical = card_used(made) - before
    finally:
        program.kill()
        program.communicate()
    wrong = len(full["wrong"])
    return [
        Figure(f"charged less physical, {name}", shown - physical, "B", f"{where}; cuMemGetInfo in the slice, NVML outside"),
        Figure(f"beyond the cap, {name}", max(0, physical - CAP), "B", f"{where}; NVML outside", goal=at_most(0)),
        Figure(f"refusals with another error than 2, {name}", wrong, "", f"{where}: {full['wrong']}", goal=at_most(0)),
    ]


def _next(program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()
    return _line(program)


def _line(program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise CannotMeasure(f"a program that fills memory ended with status {program.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found
