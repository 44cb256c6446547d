"""Simulated cards for the tests of the shim: build the binaries once, give each test its own cards, run programs on them.

Programs run as processes of their own, because what is tested is what the
loader, the kernel and several processes make of the binaries.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.limiter.options import Options

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
GIB = 1 << 30
MIB = 1 << 20
REGION_BYTES = 1069056
TREE = Path(os.environ.get("MICA_SHIM_TREE", ROOT))
"""Where `vgpu_shim` and its build folder are; another tree holds a mutant."""
SANITIZE = os.environ.get("MICA_SHIM_SANITIZE", "")
"""``address,undefined``: the tests run on binaries built with these sanitizers (``make sanitize``)."""


@dataclass(frozen=True)
class Shim:
    """The built files."""

    root: Path
    scratch: Path

    @property
    def library(self) -> Path:
        return self.root / "libmica.so"

    @property
    def front(self) -> Path:
        return self.root / "libmica-nvml.so"

    @property
    def driver(self) -> Path:
        return self.root / "sim" / "libcuda.so.1"

    @property
    def nvml(self) -> Path:
        return self.root / "sim" / "libnvidia-ml.so.1"

    @property
    def probe(self) -> Path:
        return self.root / "tools" / "gpu-probe"

    @property
    def sim_state(self) -> Path:
        return self.root / "tools" / "sim-state"

    @property
    def arbiter(self) -> Path:
        return self.root / "mica-arbiter"

    @property
    def monitor(self) -> Path:
        return self.root / "gpu-monitor"

    @property
    def inside(self) -> tuple[str, ...]:
        """The compiler's flags for a program that is made of the limiter's own sources."""
        folders = (self.root / "gen", ROOT / "vgpu_shim" / "src", ROOT / "vgpu_shim" / "hooks")
        return ("-D_GNU_SOURCE", *(f"-I{folder}" for folder in folders))

    def compile(self, source: str, *flags: str, name: str | None = None) -> Path:
        """Compile a program of `programs/` with the compiler of the shim; returns the binary."""
        out = self.scratch / (name or Path(source).stem)
        if not out.exists():
            command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17", "-O1", "-Wall", "-Werror"]
            command += [f"-I{ROOT / 'vgpu_shim' / 'include'}", str(PROGRAMS / source), *flags, "-o", str(out)]
            subprocess.run(command, check=True)
        return out


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """Build what is not built; several test processes may ask at once."""
    return Shim(root=built(SANITIZE), scratch=tmp_path_factory.mktemp("programs"))


def built(sanitize: str) -> Path:
    """Build the binaries, plain or with gcc's sanitizers, and return their folder."""
    return made(*sanitize.split(","), f"SANITIZE={sanitize}") if sanitize else made()


def made(*words: str, target: str = "") -> Path:
    """Run make in a build folder named after the plain words; the others are make's variables. A target is a file in it."""
    build = TREE / "build" / "-".join(["shim", *(word for word in words if "=" not in word)])
    build.mkdir(parents=True, exist_ok=True)
    with (build / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-s", "-C", str(TREE / "vgpu_shim"), f"BUILD={build}", f"PYTHON={sys.executable}"]
        command += [word for word in words if "=" in word] + ([str(build / target)] if target else [])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build


@pytest.fixture(scope="session")
def mortal(shim: Shim) -> Path:
    """Build a limiter that can be told to die at numbered points; returns the library."""
    return made("crash", "CRASH=1", target="libmica.so") / "libmica.so"


def sanitized(env: dict[str, str]) -> dict[str, str]:
    """Return the environment with the sanitizers' libraries in front, where there are any. Python leaks: ignored."""
    if not SANITIZE:
        return env
    preload = ":".join([*runtimes(SANITIZE), *filter(None, [env.get("LD_PRELOAD")])])
    return env | SANITIZER_SETTINGS | {"LD_PRELOAD": preload}


SANITIZER_SETTINGS = {"ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


@pytest.fixture
def options(shim: Shim) -> Options:
    """What the limiter benchmark's rig has to know of these binaries."""
    settings = tuple(SANITIZER_SETTINGS.items()) if SANITIZE else ()
    return Options(build=shim.root, preload=tuple(runtimes(SANITIZE)), environment=settings)


def runtimes(sanitize: str) -> list[str]:
    """Libraries that have to come before all others in a program with these sanitizers."""
    names = {"address": "asan", "undefined": "ubsan", "thread": "tsan"}
    files = [["gcc", f"-print-file-name=lib{names[kind]}.so"] for kind in sanitize.split(",") if kind]
    return [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in files]


# What Python programs on a card start with: the driver through ctypes, in the context of device 0.
PREAMBLE = """
import ctypes, json, os, sys, time
GIB, MIB = 1 << 30, 1 << 20
cu = ctypes.CDLL(os.environ.get("TEST_DRIVER", "libcuda.so.1"), mode=int(os.environ.get("TEST_MODE", "0")))
u64, i32, ref = ctypes.c_uint64, ctypes.c_int, ctypes.byref
def init(device=0):
    error = cu.cuInit(0)
    context = ctypes.c_void_p()
    return error or cu.cuDevicePrimaryCtxRetain(ref(context), device) or cu.cuCtxSetCurrent(context)
def alloc(size, call=None):
    pointer = u64()
    error = (call or cu.cuMemAlloc_v2)(ref(pointer), ctypes.c_size_t(size))
    return error, pointer.value
def free(pointer):
    return cu.cuMemFree_v2(u64(pointer))
def info():
    a, b = ctypes.c_size_t(), ctypes.c_size_t()
    return cu.cuMemGetInfo_v2(ref(a), ref(b)), a.value, b.value
def answer(*values):
    print(json.dumps(values), flush=True)
"""


@dataclass
class Cards:
    """A set of simulated cards, and processes on them."""

    shim: Shim
    directory: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def configure(self, *, gpus: int = 1, memory: int = 80 * GIB, **extra: str) -> None:
        """Write the config; keyword `gpu_0_numa="1"` means the key `gpu.0.numa`."""
        lines = ["version=1", f"gpus={gpus}"]
        lines += [f"gpu.{n}.uuid={self.uuid(n)}\ngpu.{n}.memory={memory}" for n in range(gpus)]
        lines += [
            f"{key.replace('_', '.') if key.startswith(('gpu_', 'link_', 'fault_')) else key}={value}"
            for key, value in extra.items()
        ]
        self.write_config("\n".join(lines) + "\n")

    def write_config(self, text: str) -> None:
        """Replace the config by rename."""
        new = self.directory / "config.new"
        new.write_text(text)
        new.rename(self.directory / "config")

    def uuid(self, number: int) -> str:
        """Return the UUID of a card."""
        return f"GPU-5a1e0000-0000-4000-8000-{number:012d}"

    def limits(self, *, memory: int = GIB, cores: int = 0, generation: int = 1, gpus: int = 1, mode: str = "enforce") -> Path:
        """Write a limits file as the node agent does, by rename."""
        lines = ["version=1", f"generation={generation}", f"mode={mode}", f"driver={self.shim.driver}", f"gpus={gpus}"]
        for n in range(gpus):
            lines += [f"gpu.{n}.uuid={self.uuid(n)}", f"gpu.{n}.memory={memory}", f"gpu.{n}.cores={cores}"]
        path = self.directory / "limits"
        new = path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.rename(path)
        return path

    def region(self) -> Path:
        """Make the usage region as the node agent does."""
        path = self.directory / "region"
        if not path.exists():
            path.write_bytes(bytes(REGION_BYTES))
        return path

    def env(self, *, limited: bool = False, managed: bool = False, **extra: str) -> dict[str, str]:
        """Return the environment of a program on these cards: plain, under stand-alone limits, or under the limits file."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "XDG_RUNTIME_DIR": str(self.directory)}
        env |= {"MICA_SIM_DIR": str(self.directory), "LD_LIBRARY_PATH": str(self.shim.root / "sim")}
        if limited or managed:
            env["LD_PRELOAD"] = str(self.shim.library)
        if managed:
            env |= {"MICA_LIMITS_FILE": str(self.directory / "limits"), "MICA_REGION_FILE": str(self.region())}
        return sanitized(env) | extra

    def member(
        self, number: int = 0, *, join: int = 1, run: str = "clock", limited: bool = False, **extra: str
    ) -> dict[str, str]:
        """Return the environment of member `number` of a group of `join` processes whose time is virtual."""
        env = self.env(limited=limited)
        clock, after = str(self.shim.root / "sim" / "libsimclock.so"), str(self.shim.library) if limited else ""
        env["LD_PRELOAD"] = ":".join(filter(None, [clock, *runtimes(SANITIZE), after]))
        env |= {"MICA_SIM_CLOCK": str(self.directory / run), "MICA_SIM_CLOCK_JOIN": str(join), "MICA_SIM_CLOCK_ID": str(number)}
        return env | extra

    def run(self, *command: str | Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, timeout=200, check=False)

    def start(self, *command: str | Path, env: dict[str, str]) -> subprocess.Popen[str]:
        """Start a program; it is killed after the test."""
        process = subprocess.Popen([str(c) for c in command], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def probe(self, *args: str, env: dict[str, str]) -> dict[str, Any]:
        """Run gpu-probe and return what it printed."""
        done = self.run(self.shim.probe, *args, env=env)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def python(self, code: str, *, env: dict[str, str]) -> list[Any]:
        """Run a Python program on the cards; returns what its `answer(...)` calls said, one list per call."""
        done = self.run(sys.executable, "-c", PREAMBLE + code, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start_python(self, code: str, *, env: dict[str, str], under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a Python program on the cards, as what `under` is to run; it answers line by line."""
        return self.start(*under, sys.executable, "-c", PREAMBLE + code, env=env)

    def truth(self, gpu: int = 0) -> dict[str, Any]:
        """Return what the simulator knows of a card."""
        done = self.run(self.shim.sim_state, env=self.env())
        assert done.returncode == 0, done.stderr
        card: dict[str, Any] = json.loads(done.stdout)["gpus"][gpu]
        return card


@pytest.fixture
def cards(shim: Shim, tmp_path: Path) -> Iterator[Cards]:
    """One simulated card of 80 GiB, fresh for each test."""
    made = Cards(shim=shim, directory=tmp_path)
    made.configure()
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The first test may have to build everything with a cold compiler cache. Sanitizers are for what programs do."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(300))
    dropped = [item for item in items if SANITIZE and not sanitizable(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def sanitizable(item: pytest.Item) -> bool:
    """Whether a test means something with sanitizers, whose runtimes refuse RTLD_DEEPBIND and dlmopen."""
    words = ("deepbind", "dlmopen", "test_the_binaries_can_be_loaded_anywhere", "test_programs_without_a_gpu", "mutant", "fuzz")
    return not any(word in item.nodeid for word in words)
