"""Programs on one simulated card under the virtual clock, under the limiter and its arbiter; truth from the simulator's counters.

A run is a function of its scene: the same scene gives the same numbers. Simulated throughout; nothing here touches a GPU.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks.limiter.options import Options
from mica_api.allocation import GPUShare
from mica_api.compute import Compute, parse_policy, parse_priority
from mica_device_plugin import region
from mica_device_plugin.limits import Limits, render_limits
from mica_device_plugin.values import SliceOwner

UUID: Final = "GPU-5a1e0000-0000-4000-8000-000000000000"
_MEMORY_MIB: Final = 4096
_BUSY_OFFSET: Final = 4096 + 192
_TIMEOUT_S: Final = 600
_ADDR_NO_RANDOMIZE: Final = 0x0040000
_libc: Final = ctypes.CDLL(None)


def _same_addresses() -> None:
    """Addresses are keys of hash tables: with random ones two runs of a scene would differ."""
    _libc.personality(_ADDR_NO_RANDOMIZE)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One container: ``processes`` copies of gpu-probe with these arguments.

    ``cores``: percent, 0 = uncapped; ``limited`` False runs it without the limiter. ``start_s``: begins this much later.
    """

    name: str
    args: str
    cores: int = 0
    processes: int = 1
    policy: str = "strict"
    priority: str = "normal"
    weight: int = 100
    start_s: float = 0.0
    limited: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """At this second of the run a tenant's limits become others."""

    at_s: float
    tenant: str
    cores: int


@dataclass(frozen=True, slots=True)
class Fault:
    """At this second something ends or begins: ``kill`` or ``restart`` (the arbiter), ``kill NAME`` (a tenant's processes)."""

    at_s: float
    what: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs on the card, for how many seconds, and how the card behaves (keys of its config)."""

    tenants: tuple[Tenant, ...]
    seconds: int = 10
    every_ms: int = 1000
    arbiter: bool = True
    quantum_ns: int = 0
    card: tuple[tuple[str, str], ...] = ()
    changes: tuple[Change, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Per tenant: cumulative busy seconds at each reading (``every_ms`` apart, first reading after one interval).

    ``charged_s``: what the limiter itself says each used, at some moment after the last reading.
    """

    busy_s: dict[str, list[float]]
    every_s: float
    charged_s: dict[str, float]

    def mean(self, tenant: str, *, skip: int = 0) -> float:
        """Share of the card over the readings after the first ``skip``, in percent."""
        series = self.busy_s[tenant]
        first = series[skip - 1] if skip else 0.0
        return 100 * (series[-1] - first) / (self.every_s * (len(series) - skip))

    def windows(self, tenant: str, *, length_s: float = 1.0, skip: int = 0) -> list[float]:
        """Shares of windows of that length that follow one another, in percent."""
        step = round(length_s / self.every_s)
        series = [0.0, *self.busy_s[tenant]][skip:]
        return [100 * (series[i + step] - series[i]) / length_s for i in range(0, len(series) - step, step)]


def play(scene: Scene, options: Options) -> Outcome:
    """Run a scene. Raises CannotMeasure when a program fails."""
    with tempfile.TemporaryDirectory(prefix="mica-share-") as folder:
        return _Stage(scene, options, Path(folder)).play()


class _Stage:
    def __init__(self, scene: Scene, options: Options, folder: Path) -> None:
        self._scene, self._options, self._folder = scene, options, folder
        self._processes: list[subprocess.Popen[str]] = []
        self._members = sum(t.processes for t in scene.tenants) + 1 + scene.arbiter + len(scene.changes) + len(scene.faults)

    def play(self) -> Outcome:
        """Start everything, wait, count."""
        self._configure()
        try:
            return self._play()
        finally:
            for process in self._processes:
                process.kill()
                process.communicate()

    def _play(self) -> Outcome:
        scene, number, owners = self._scene, 0, {}
        if scene.arbiter:
            self._start(self._arbiter(), self._member(number))
            number += 1
        probes = []
        for tenant in scene.tenants:
            for _ in range(tenant.processes):
                probe = self._start(self._command(tenant), self._environment(tenant, number))
                owners[probe.pid] = tenant.name
                probes.append(probe)
                number += 1
        for change in scene.changes:
            self._start(self._rewrite(change), self._member(number))
            number += 1
        for fault in scene.faults:
            self._start(self._do(fault, owners), self._member(number))
            number += 1
        steps = scene.seconds * 1000 // scene.every_ms
        reader = self._start([str(self._options.file("tools/sim-state")), str(scene.every_ms), str(steps)], self._member(number))
        lines = self._output(reader).splitlines()
        busy = {tenant.name: [0.0] * len(lines) for tenant in scene.tenants}
        for step, line in enumerate(lines):
            for process in json.loads(line)["gpus"][0]["processes"]:
                if process["pid"] in owners:
                    busy[owners[process["pid"]]][step] += process["busy_ns"] / 1e9
        charged = {tenant.name: self._charged(tenant.name) for tenant in scene.tenants}
        return Outcome(busy_s=busy, every_s=scene.every_ms / 1000, charged_s=charged)

    def _charged(self, tenant: str) -> float:
        head = (self._folder / "slices" / tenant / "usage" / "region").read_bytes()[: _BUSY_OFFSET + 8]
        return int.from_bytes(head[_BUSY_OFFSET:], "little") / 1e9

    def _configure(self) -> None:
        lines = ["version=1", "gpus=1", f"gpu.0.uuid={UUID}", *(f"{key}={value}" for key, value in self._scene.card)]
        (self._folder / "config").write_text("\n".join(lines) + "\n")
        for tenant in self._scene.tenants:
            slice_dir = self._folder / "slices" / tenant.name
            (slice_dir / "limits").mkdir(parents=True)
            (slice_dir / "usage").mkdir()
            (slice_dir / "usage" / "region").write_bytes(bytes(region.SIZE))
            write_limits(slice_dir / "limits" / "limits", tenant, generation=1, driver=self._options.file("sim/libcuda.so.1"))

    def _command(self, tenant: Tenant) -> list[str]:
        probe = str(self._options.file("tools/gpu-probe"))
        # longer than it is watched: nobody stops before the end
        return [probe, "--wait", f"{tenant.start_s:.6f}", "--spin", str(self._scene.seconds + 1), *tenant.args.split()]

    def _arbiter(self) -> list[str]:
        words = [self._options.file("mica-arbiter"), "--slices", self._folder / "slices", "--page", self._folder / "page"]
        return [str(word) for word in words]

    def _do(self, fault: Fault, owners: dict[int, str]) -> list[str]:
        what, _, name = fault.what.partition(" ")
        victims = [pid for pid, owner in owners.items() if owner == name] if name else [self._processes[0].pid]
        action = (
            f"[os.kill(pid, 9) for pid in {victims}]"
            if what == "kill"
            else f"os.execv({self._arbiter()[0]!r}, {self._arbiter()})"
        )
        return [sys.executable, "-I", "-S", "-c", f"import os, time; time.sleep({fault.at_s}); {action}"]

    def _rewrite(self, change: Change) -> list[str]:
        """A program that puts a new limits file in place when its time has come."""
        tenant = next(t for t in self._scene.tenants if t.name == change.tenant)
        path = self._folder / "slices" / change.tenant / "limits" / "limits"
        fresh = path.with_name(f"at-{change.at_s:g}")
        generation = 2 + self._scene.changes.index(change)
        driver = self._options.file("sim/libcuda.so.1")
        write_limits(fresh, replace(tenant, cores=change.cores), generation=generation, driver=driver)
        code = f"import os, time; time.sleep({change.at_s}); os.rename({str(fresh)!r}, {str(path)!r})"
        return [sys.executable, "-I", "-S", "-c", code]

    def _member(self, number: int) -> dict[str, str]:
        scene = self._scene
        return dict(self._options.environment) | {
            "PATH": os.environ["PATH"],
            "MICA_SIM_DIR": str(self._folder),
            "LD_LIBRARY_PATH": str(self._options.build / "sim"),
            "LD_PRELOAD": ":".join([str(self._options.file("sim/libsimclock.so")), *self._options.preload]),
            "MICA_SIM_CLOCK": str(self._folder / "clock"),
            "MICA_SIM_CLOCK_JOIN": str(self._members),
            "MICA_SIM_CLOCK_ID": str(number),
            "MICA_SIM_CLOCK_QUANTUM_NS": str(scene.quantum_ns),
        }

    def _environment(self, tenant: Tenant, number: int) -> dict[str, str]:
        env = self._member(number)
        if not tenant.limited:
            return env
        slice_dir = self._folder / "slices" / tenant.name
        return env | {
            "LD_PRELOAD": f"{env['LD_PRELOAD']}:{self._options.file('libmica.so')}",
            "MICA_LIMITS_FILE": str(slice_dir / "limits" / "limits"),
            "MICA_REGION_FILE": str(slice_dir / "usage" / "region"),
            "MICA_NODE_FILE": str(self._folder / "page"),
        }

    def _start(self, command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=_same_addresses)
        self._processes.append(process)
        return process

    def _output(self, process: subprocess.Popen[str]) -> str:
        try:
            out, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise CannotMeasure(f"{process.args!r} did not end within {_TIMEOUT_S} s") from error
        if process.returncode:
            raise CannotMeasure(f"{process.args!r} failed with status {process.returncode}")
        return out


def write_limits(path: Path, tenant: Tenant, *, generation: int, driver: Path) -> None:
    """Write a limits file as the node agent does, with its own words."""
    compute = Compute(parse_policy("policy", tenant.policy), parse_priority("priority", tenant.priority), tenant.weight)
    limits = Limits(
        SliceOwner(tenant.name, tenant.name), (GPUShare(UUID, _MEMORY_MIB, tenant.cores),), compute, driver=str(driver)
    )
    fresh = path.with_suffix(".new")
    fresh.write_bytes(render_limits(limits, generation=generation))
    fresh.rename(path)
