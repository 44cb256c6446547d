"""Puts the placement engine's C kernel into wheels, which belong to one kind of machine then.

Where there is no compiler for the machine, the wheel is made without it and is good for any machine: the extender then computes
placements on numpy and says so when it starts. Trees that are installed in place are left alone; they have ``make kernel``.
"""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = "mica_extender/placement/kernel/libplacement.so"


class KernelHook(BuildHookInterface):
    """Builds the library beside the tree, so that a tree that cannot be written to can be built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library and the wheel's tag."""
        if version == "editable":
            return
        builder = _build_kernel(Path(self.root))
        machine = platform.machine()
        self._scratch = tempfile.TemporaryDirectory(prefix="mica-kernel-")
        library = Path(self._scratch.name) / "libplacement.so"
        try:
            if sys.platform != "linux" or machine not in builder.MACHINES:
                raise OSError(f"{sys.platform} on {machine} is not one of the machines it is made for")
            builder.build(library, machine)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"wheel without the placement kernel, which means numpy: {error}")
            return
        build_data["force_include"][str(library)] = INSIDE
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_17_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built beside the tree."""
        if version != "editable":
            self._scratch.cleanup()


def _build_kernel(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_kernel", root / "extender" / "build_kernel.py")
    if spec is None or spec.loader is None:
        raise ImportError("extender/build_kernel.py is missing from the tree")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
