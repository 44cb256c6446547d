"""Slices on the card and programs in them: what every experiment starts, and how it reads what they say."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pynvml

from benchmarks._command import CannotMeasure
from benchmarks.gpu.options import Options
from mica_api.allocation import GPUShare
from mica_device_plugin import region
from mica_device_plugin.limits import Limits, render_limits
from mica_device_plugin.values import SliceOwner

WORKER: Final = Path(__file__).with_name("worker.py")
SIMULATED_UUID: Final = "GPU-5a1e0000-0000-4000-8000-000000000000"
_STARTING_S: Final = 120


@dataclass(frozen=True, slots=True)
class Work:
    """What a program launches: kernels of so many ns, how many between two waits, on how many streams, or graphs of so many."""

    name: str
    ns: float
    depth: int = 1
    streams: int = 1
    graph: int = 0


@dataclass(frozen=True, slots=True)
class Cap:
    """A slice: percent of the card (0: uncapped) and memory."""

    cores: int
    memory_mib: int = 16 << 10


class Bench:
    """One card for the experiments of a part. ``rounds`` is the kernel's calibration, the same for all programs."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.rounds = 0.0
        self._slices = 0
        if options.simulated:
            (folder / "config").write_text(f"version=1\ngpus=1\ngpu.0.uuid={SIMULATED_UUID}\n")

    def bare(self) -> dict[str, str]:
        """Environment of a program without a limiter."""
        env = dict(os.environ)
        if self.options.simulated:
            env |= {"MICA_SIM_DIR": str(self.folder), "LD_LIBRARY_PATH": str(self.options.build / "sim")}
        return env

    def limited(self, cap: Cap | None) -> dict[str, str]:
        """Environment of a program in a new slice; None: without a limiter."""
        if cap is None:
            return self.bare()
        self._slices += 1
        folder = self.folder / "slices" / f"slice-{self._slices}"
        for part in ("limits", "usage"):
            (folder / part).mkdir(parents=True)
        (folder / "usage" / "region").write_bytes(bytes(region.SIZE))
        env = self.bare() | {
            "LD_PRELOAD": str(self.options.file("libmica.so")),
            "MICA_LIMITS_FILE": str(folder / "limits" / "limits"),
            "MICA_REGION_FILE": str(folder / "usage" / "region"),
            "MICA_NODE_FILE": str(self.folder / "page"),
        }
        self.resize(env, cap, generation=1)
        return env

    def resize(self, env: dict[str, str], cap: Cap, *, generation: int) -> None:
        """Write a slice's limits, in the node agent's words."""
        path = Path(env["MICA_LIMITS_FILE"])
        uuid = SIMULATED_UUID if self.options.simulated else card_uuid()
        driver = str(self.options.file("sim/libcuda.so.1")) if self.options.simulated else None
        share = GPUShare(uuid, cap.memory_mib, cap.cores)
        limits = Limits(SliceOwner("benchmark", path.parent.parent.name), (share,), driver=driver)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(render_limits(limits, generation=generation))
        fresh.replace(path)

    def ask(self, *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Run a worker to its end and return the last thing it said."""
        done = subprocess.run(
            [sys.executable, str(WORKER), *words],
            env=env or self.bare(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode or not done.stdout:
            raise CannotMeasure(f"worker {words[0]} failed: {done.stdout[-500:]} {done.stderr[-500:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def calibrate(self) -> None:
        """Measure once, alone and without a limiter, how much work a nanosecond is."""
        with self.running([(Work("calibration", 1000), self.bare())], seconds=0.0) as programs:
            self.rounds = programs[0].rounds
            programs[0].go()

    @contextmanager
    def running(self, pairs: Sequence[tuple[Work, dict[str, str]]], *, seconds: float | None = None) -> Iterator[list[Program]]:
        """Programs that have their contexts and wait for the word to go."""
        length = self.options.warm_s + self.options.seconds if seconds is None else seconds
        programs = [Program(work, env, length, self.rounds) for work, env in pairs]
        try:
            for program in programs:
                program.wait_until_ready()
            yield programs
        finally:
            for program in programs:
                program.end()

    def rates(self, pairs: Sequence[tuple[Work, dict[str, str]]]) -> list[list[float]]:
        """Launches per second of programs side by side, one figure per second, warm-up left out."""
        with self.running(pairs) as programs:
            for program in programs:
                program.go()
            skip = round(self.options.warm_s)
            found = [program.windows() for program in programs]
            return [windows[skip:] or windows[-1:] for windows in found]

    def alone(self, work: Work, cap: Cap | None) -> list[float]:
        """Launches per second of one program that has the card for itself."""
        return self.rates([(work, self.limited(cap))])[0]


class Program:
    """A worker that spins."""

    def __init__(self, work: Work, env: dict[str, str], seconds: float, rounds: float) -> None:
        words = ["--ns", str(work.ns), "--seconds", str(seconds), "--depth", str(work.depth), "--streams", str(work.streams)]
        words += ["--graph", str(work.graph), "--rounds", str(rounds)]
        command = [sys.executable, str(WORKER), "spin", *words]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.rounds = 0.0

    def wait_until_ready(self) -> None:
        """Wait for its context. Raises CannotMeasure when it has none."""
        said = self._line()
        if not said.get("ready"):
            raise CannotMeasure(f"a program got no context: {said}")
        self.rounds = float(said["rounds"])

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def windows(self) -> list[float]:
        """Launches per second, one figure per second; waits for the end."""
        return [float(rate) for rate in self._line()["windows"]]

    def end(self) -> None:
        """Make sure that it is gone."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CannotMeasure(f"a program ended with status {self._process.wait(timeout=_STARTING_S)} and said nothing")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def bench(options: Options) -> Iterator[Bench]:
    """A bench with a folder of its own and the node's arbiter beside it, calibrated."""
    with tempfile.TemporaryDirectory(prefix="mica-gpu-") as name, arbiter(options, Path(name)):
        made = Bench(options, Path(name))
        made.calibrate()
        yield made


@contextmanager
def arbiter(options: Options, folder: Path) -> Iterator[None]:
    """The process that lends the card out in turns, as the node agent runs it. Raises CannotMeasure when it does not stay."""
    (folder / "slices").mkdir()
    if not options.has_arbiter:
        yield
        return
    command = [str(options.file("mica-arbiter")), "--slices", str(folder / "slices"), "--page", str(folder / "page")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
            if process.poll() is not None:
                raise CannotMeasure(f"mica-arbiter ended: {process.communicate()[1][-500:]}")
        finally:
            process.kill()


def card_uuid() -> str:
    """UUID of device 0, as the limits file names it."""
    pynvml.nvmlInit()
    uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0))
    return uuid if isinstance(uuid, str) else uuid.decode()


def card_used(made: Bench) -> int:
    """Bytes in use on the card, as NVML sees it from outside of every slice."""
    code = (
        "import pynvml as n; n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0); "
        "print(n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2).used)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=made.bare(), capture_output=True, text=True, check=True)
    return int(done.stdout)


def spread(values: Sequence[float]) -> str:
    """Median and range, for the how of a figure."""
    return f"median of {len(values)}, {min(values):.3g} to {max(values):.3g}"


def percent(part: Sequence[float], whole: Sequence[float]) -> float:
    """Mean rate of one in percent of the mean rate of the other."""
    return 100 * statistics.fmean(part) / statistics.fmean(whole)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def pause() -> None:
    """Between cells: let the card's queues and clocks settle."""
    time.sleep(0.2)
