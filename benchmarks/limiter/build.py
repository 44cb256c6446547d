"""Programs of this benchmark, compiled with the shim's own compiler against the shim's declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks.limiter.options import ROOT

HERE: Final = Path(__file__).parent
FOLDER: Final = ROOT / "build" / "bench" / "limiter"


def compiled(name: str, out: str, *flags: str) -> Path:
    """Compile ``name`` of this package into ``build/bench/limiter/OUT``. Raises CannotMeasure when the compiler refuses."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / out
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17", "-std=c11", "-D_GNU_SOURCE", "-O2"]
    command += ["-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'vgpu_shim' / 'include'}", str(HERE / name), *flags, "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"{name} does not compile:\n{done.stderr}")
    return path


def fake_driver() -> Path:
    """The folder of a driver that does next to nothing."""
    shared = ("-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic")
    return compiled("fake_driver.c", "libcuda.so.1", *shared).parent


def calls() -> Path:
    """The program that makes one kind of call over and over."""
    return compiled("calls.c", "calls", str(fake_driver() / "libcuda.so.1"), "-lpthread")
