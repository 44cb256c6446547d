"""How exact the cap is: what the limiter has charged beside what the simulated card really gave, for each family of memory.

The card's granularity, pitch, pool unit and chunk, context and module overhead are drawn from a seed that the limiter does not
know. The truth is read from the simulator's own counters, which no driver call shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure, at_most
from benchmarks.limiter.families import FAMILIES
from benchmarks.limiter.options import Options

UUID: Final = "GPU-5a1e0000-0000-4000-8000-000000000000"
CAP: Final = 4 << 30
SEEDS: Final = (1, 2, 3, 4, 5)
RACING: Final = ("linear", "own_pool", "virtual", "pitched")
_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a full slice: bytes shown as used, bytes that the card gave, errors that were not out-of-memory."""

    shown: int
    physical: int
    wrong: tuple[int, ...]

    @property
    def error(self) -> int:
        """By how much the charge is wrong, or the cap was passed, whichever is more. Bytes."""
        return max(abs(self.shown - self.physical), self.physical - CAP)


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    seeds = SEEDS[:2] if options.quick else SEEDS
    rows = []
    for family in FAMILIES:
        readings = [reading for seed in seeds for reading in fill(options, seed, [family])]
        rows.append(_figure(f"cap error, {family.replace('_', ' ')}", readings, f"{len(seeds)} drawn cards"))
    readings = [reading for seed in seeds for reading in fill(options, seed, RACING)]
    rows.append(
        _figure(f"cap error, {len(RACING)} processes racing", readings, f"four families at once, {len(seeds)} drawn cards")
    )
    return rows


def _figure(name: str, readings: Sequence[Reading], what: str) -> Figure:
    wrong = sorted({error for reading in readings for error in reading.wrong})
    if wrong:
        raise CannotMeasure(f"{name}: refused with {wrong} where CUDA_ERROR_OUT_OF_MEMORY (2) is due")
    how = f"|charged − physical|, or bytes above the cap, contexts included; simulated, {what}, {len(readings)} full slices"
    return Figure(name, max(reading.error for reading in readings), "B", how, goal=at_most(0))


def fill(options: Options, seed: int, families: Sequence[str]) -> list[Reading]:
    """Fill a slice with one process for each of these families, three times; a reading each time when all are full."""
    with tempfile.TemporaryDirectory(prefix="mica-memory-") as name:
        folder = Path(name)
        (folder / "config").write_text(f"version=1\nmemory_seed={seed}\ngpus=1\ngpu.0.uuid={UUID}\n")
        env = {"PATH": os.environ["PATH"], "MICA_SIM_DIR": name, "LD_LIBRARY_PATH": str(options.build / "sim")}
        slice_ = {"LD_PRELOAD": str(options.file("libmica.so")), "MICA_MEMORY": str(CAP), "XDG_RUNTIME_DIR": name}
        script = str(Path(__file__).with_name("families.py"))
        processes = [
            subprocess.Popen(
                [sys.executable, script, family, str(seed)],
                env=env | slice_,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for family in families
        ]
        try:
            for process in processes:
                _line(process)
            for process in processes:
                _tell(process)
            return [_reading(options, processes, env) for _ in range(3)]
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _reading(options: Options, processes: Sequence[subprocess.Popen[str]], env: dict[str, str]) -> Reading:
    full = [_line(process) for process in processes]
    shown = [_answer(process)["shown"] for process in processes]
    truth = subprocess.run([str(options.file("tools/sim-state"))], env=env, capture_output=True, text=True, check=True)
    for process in processes:
        _tell(process)
    physical = json.loads(truth.stdout)["gpus"][0]["memory_used"]
    return Reading(shown[-1], physical, tuple(error for one in full for error in one["wrong"]))


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    _tell(process)
    return _line(process)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise CannotMeasure(f"a program that fills memory ended with status {process.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found
