"""What it costs a program that never uses a GPU to have the limiter preloaded, as every process of a slice container has."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure
from benchmarks.limiter import counts
from benchmarks.limiter.options import Options

PROGRAM: Final = "/bin/true"
PAIRS: Final = 200


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part."""
    library = options.file("libmica.so")
    plain = {"PATH": os.environ["PATH"]}
    preloaded = plain | {"LD_PRELOAD": str(library)}
    start = _instructions(preloaded) - _instructions(plain)
    each = [(_seconds(plain), _seconds(preloaded)) for _ in range(PAIRS)]
    more = statistics.median(after - before for before, after in each) * 1e3
    bare = statistics.median(before for before, _ in each) * 1e3
    how = f"{PROGRAM} with and without, {PAIRS} pairs in turn, median of the difference; bare {bare:.2f} ms"
    return [
        Figure("start and end of a program", start, "instructions", f"callgrind of {PROGRAM} with and without LD_PRELOAD"),
        Figure("start and end of a program, time", more, "ms", how),
        Figure("memory of its own", _private_kib(preloaded) - _private_kib(plain), "KiB", "private pages of a sleeping process"),
        Figure("file", library.stat().st_size / 1024, "KiB", "libmica.so"),
    ]


def _instructions(env: dict[str, str]) -> int:
    out = Path("/dev/null")
    command = [counts.valgrind(), "--tool=callgrind", f"--callgrind-out-file={out}", PROGRAM]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    found = re.search(r"Collected *: (\d+)", done.stderr)
    if not found:
        raise CannotMeasure(f"callgrind counted nothing of {PROGRAM}: {done.stderr[-500:]}")
    return int(found[1])


def _seconds(env: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run([PROGRAM], env=env, check=True)
    return time.perf_counter() - begin


def _private_kib(env: dict[str, str]) -> int:
    with subprocess.Popen(["sleep", "60"], env=env) as process:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup")
            while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes() or _asleep(process.pid) != "S":
                time.sleep(0.01)
            words = re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup.read_text(), re.MULTILINE)
        finally:
            process.kill()
    return sum(map(int, words))


def _asleep(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
