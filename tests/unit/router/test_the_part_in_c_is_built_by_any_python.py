"""Headers are where pyenv has them, where Debian has them, or missing; the library is the same, or there are words."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mica_build_native", ROOT / "build_native.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """The headers of this Python as Debian lays them out."""
    own, folder = Path(sysconfig.get_path("include")), tmp_path / "include" / "python3.x"
    shutil.copytree(own, folder)
    parted = tmp_path / "include" / "x86_64-linux-gnu" / "python3.x"
    if not (own.parent / str(sysconfig.get_config_var("MULTIARCH")) / own.name / "pyconfig.h").exists():
        parted.mkdir(parents=True)
        (folder / "pyconfig.h").rename(parted / "pyconfig.h")
    else:
        shutil.copytree(own.parent / str(sysconfig.get_config_var("MULTIARCH")) / own.name, parted)
    (folder / "pyconfig.h").write_text(
        "#ifdef __x86_64__\n#include <x86_64-linux-gnu/python3.x/pyconfig.h>\n"
        "#else\n#include <aarch64-linux-gnu/python3.x/pyconfig.h>\n#endif\n"
    )
    return folder


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_debians_headers_are_found_for_every_machine(builder: ModuleType, debian: Path, tmp_path: Path, machine: str) -> None:
    source, scratch = tmp_path / "probe.c", tmp_path / "scratch"
    source.write_text("#define Py_LIMITED_API 0x030b0000\n#include <Python.h>\nint size = SIZEOF_LONG;\n")
    scratch.mkdir()
    options = builder.header_options(scratch, machine, folder=debian, multiarch="x86_64-linux-gnu")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.2.17", "-c", str(source)]
    subprocess.run([*compiler, *options, "-o", str(tmp_path / "probe.o")], check=True)


def test_missing_headers_are_told_with_what_to_install(builder: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Python\.h is missing: install python3-dev"):
        builder.header_options(tmp_path, "x86_64", folder=tmp_path, multiarch="x86_64-linux-gnu")
