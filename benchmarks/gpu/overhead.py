"""11.5: what a call costs under the limiter, bare and limited in turn; with PyTorch, what a step and a matmul cost."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure, at_most
from benchmarks.gpu.bench import Bench, Cap, bench, spread
from benchmarks.gpu.options import Options

PAIRS: Final = 10
TORCH: Final = Path(__file__).with_name("torch_step.py")


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part. Without PyTorch its rows are missing, and a row says so."""
    pairs = 2 if options.simulated else PAIRS
    with bench(options) as made:
        rows = _calls(made, pairs)
        missing = torch_missing(options)
        rows += [Figure("PyTorch figures", 0, "", f"not measured: {missing}")] if missing else _torch(made, pairs)
    return rows


def torch_missing(options: Options) -> str:
    """Why PyTorch cannot be measured; empty when it can."""
    if options.simulated:
        return "the CUDA runtime refuses a simulated driver"
    return "" if importlib.util.find_spec("torch") else "PyTorch is not installed (pip install torch)"


def _calls(made: Bench, pairs: int) -> list[Figure]:
    bare, limited = [], []
    for _ in range(pairs):  # in turn, so that a drift of the machine is in both
        bare.append(made.ask("calls", "--batches", "20"))
        limited.append(made.ask("calls", "--batches", "20", env=made.limited(Cap(cores=100))))
    rows = []
    for kind in bare[0]:
        more = [after[kind] - before[kind] for before, after in zip(bare, limited, strict=True)]
        base = statistics.median(one[kind] for one in bare)
        how = f"{made.options.source}; cap 100, through ctypes, bare {base:.0f} ns; {spread(more)}"
        rows.append(Figure(f"added to {kind}", statistics.median(more), "ns", how))
    return rows


def _torch(made: Bench, pairs: int) -> list[Figure]:
    bare, limited = [], []
    for _ in range(pairs):
        if not made.options.time_for(60):
            break
        bare.append(_step(made.bare()))
        limited.append(_step(made.limited(Cap(cores=100, memory_mib=64 << 10))))
    if not bare:
        raise CannotMeasure("no time was left for PyTorch")
    rows = []
    for kind in bare[0]:
        ratios = [100 * (before[kind] / after[kind] - 1) for before, after in zip(bare, limited, strict=True)]
        how = f"{made.options.source}; rate with and without the limiter at cap 100; {spread(ratios)}"
        rows.append(Figure(f"slower with the limiter: {kind}", statistics.median(ratios), "%", how, goal=at_most(1)))
    return rows


def _step(env: dict[str, str]) -> dict[str, float]:
    done = subprocess.run([sys.executable, str(TORCH)], env=env, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise CannotMeasure(f"the PyTorch program failed: {done.stderr[-800:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
