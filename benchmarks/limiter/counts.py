"""What a program does: instructions by callgrind, system calls by tracing, time by itself; with and without the limiter."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks.limiter.build import calls, fake_driver
from benchmarks.limiter.options import Options

_TIMEOUT_S: Final = 60
STARTING_NS: Final = 100_000_000  # a shape's first launches wait until they are measured; the same in a short and a long run
_THROTTLED_AT: Final = 4096 + 208  # of the first GPU's record, in the usage region


@dataclass(frozen=True, slots=True)
class Setting:
    """How a program runs: under which limiter (None: bare) and with which percentage of the card (0: uncapped)."""

    limiter: Path | None
    cores: int = 0


def bare() -> Setting:
    """Without a limiter."""
    return Setting(limiter=None)


def valgrind() -> str:
    """The valgrind program. Raises CannotMeasure with what to install."""
    found = shutil.which("valgrind")
    if not found:
        raise CannotMeasure("instructions are counted by valgrind, which is not here: apt-get install valgrind")
    return found


@contextmanager
def stage(setting: Setting) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder for one run, and the environment of its program."""
    with tempfile.TemporaryDirectory(prefix="mica-calls-") as name:
        env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": name, "LD_LIBRARY_PATH": str(fake_driver())}
        if setting.limiter:
            env |= {"LD_PRELOAD": str(setting.limiter), "MICA_MEMORY": "64GiB", "MICA_CORES": str(setting.cores)}
        yield Path(name), env


def instructions(kind: str, count: int, live: int, setting: Setting) -> int:
    """Instructions of the calling thread in a run of ``count`` calls. Raises CannotMeasure when it fails or had to wait."""
    with stage(setting) as (folder, env):
        out = folder / "callgrind"
        command = [
            valgrind(),
            "-q",
            "--fair-sched=yes",
            "--tool=callgrind",
            "--separate-threads=yes",
            f"--callgrind-out-file={out}",
        ]
        _run([*command, str(calls()), kind, str(count), str(live)], env)
        if throttled(folder) > STARTING_NS:
            raise CannotMeasure(f"{kind}: the cap made launches wait, which is not what this measures")
        first = next(iter(sorted(folder.glob("callgrind-01"))), out)
        found = re.search(r"^(?:summary|totals): (\d+)", first.read_text(), re.MULTILINE)
        if not found:
            raise CannotMeasure(f"callgrind wrote no total into {first}")
        return int(found[1])


def per_call(kind: str, live: int, setting: Setting, *, low: int = 1000, high: int = 11000) -> float:
    """Instructions of one call: the difference of two runs, so that start and end do not count."""
    return (instructions(kind, high, live, setting) - instructions(kind, low, live, setting)) / (high - low)


def system_calls(kind: str, live: int, setting: Setting, *, count: int = 20_000) -> float:
    """System calls of the calling thread, per call, in the second half of a run."""

    def seen(number: int) -> int:
        with stage(setting) as (_, env):
            return int(_json([str(calls()), "--system", kind, str(number), str(live)], env)["system"])

    return max(0, seen(count) - seen(0)) / (count / 2)


def nanoseconds(kind: str, threads: int, setting: Setting, *, count: int = 20_000) -> float:
    """Median time of a call, the mean over threads; calls of a thread are 5 µs apart."""
    with stage(setting) as (_, env):
        return _json([str(calls()), "--ns", str(threads), kind, str(count), "2"], env)["ns"]


def throttled(folder: Path) -> int:
    """Nanoseconds that launches were made to wait, from the usage region in a folder; 0 without one."""
    regions = list(folder.glob("*.region"))
    if not regions:
        return 0
    with regions[0].open("rb") as file:
        file.seek(_THROTTLED_AT)
        (waited,) = struct.unpack("<Q", file.read(8))
    return int(waited)


def limited(options: Options, cores: int) -> Setting:
    """Under the built limiter."""
    return Setting(limiter=options.file("libmica.so"), cores=cores)


def _json(command: list[str], env: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = json.loads(_run(command, env))
    return found


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        raise CannotMeasure(f"{' '.join(command)} failed: {done.stderr[-1000:]}")
    return done.stdout
