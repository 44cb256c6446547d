"""CUDA's and NVML's public headers for the tests: from the package index into a cache outside the tree, never committed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

VERSION = "13.5.37"
WHEELS = ("nvidia-cuda-runtime", "nvidia-nvml-dev")


def include_directory() -> Path:
    """The folder with ``cuda.h`` and ``nvml.h``; ``MICA_CUDA_HEADERS`` names one that is there already."""
    named = os.environ.get("MICA_CUDA_HEADERS")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mica" / f"cuda-headers-{VERSION}"
    found = Path(named) if named else cache / "nvidia" / "cu13" / "include"
    if not named and not (found / "nvml.h").exists():
        _download(cache)
    assert (found / "cuda.h").exists() and (found / "nvml.h").exists(), f"{found} has no cuda.h and nvml.h"
    return found


def _download(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    tool = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command = [*tool, "--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64", "--dest", str(cache)]
    subprocess.run([*command, *(f"{wheel}=={VERSION}" for wheel in WHEELS)], check=True, timeout=240)
    for wheel in cache.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(cache, [n for n in packed.namelist() if n.endswith(".h")])
