"""Puts the parts in C into wheels, which belong to one kind of machine then.

Where one cannot be built, the wheel is made without it, and what it is for is done in Python: the extender then computes
placements on numpy and says so when it starts, the router spends more time per event. Trees that are installed in place are left
alone; they have ``make kernel``.
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


class KernelHook(BuildHookInterface):
    """Builds the libraries beside the tree, so that a tree that cannot be written to can be built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries and the wheel's tag."""
        if version == "editable":
            return
        builder = _builder(Path(self.root))
        machine = platform.machine()
        self._scratch = tempfile.TemporaryDirectory(prefix="mica-kernel-")
        interfaces = []
        for part in builder.PARTS.values():
            library = Path(self._scratch.name) / part.library
            try:
                if sys.platform != "linux" or machine not in builder.MACHINES:
                    raise OSError(f"{sys.platform} on {machine} is not one of the machines it is made for")
                builder.build(part, library, machine)
            except (OSError, subprocess.CalledProcessError) as error:
                self.app.display_warning(f"wheel without {part.library}, which means Python in its place: {error}")
                continue
            inside = part.built.relative_to(builder.ROOT).parts
            build_data["force_include"][str(library)] = "/".join(inside[inside.index("src") + 1 :])
            interfaces.append("cp311-abi3" if part.headers else "py3-none")
        if interfaces:
            build_data["pure_python"] = False
            build_data["tag"] = f"{min(interfaces)}-manylinux_2_17_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built beside the tree."""
        if version != "editable":
            self._scratch.cleanup()


def _builder(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_native", root / "build_native.py")
    if spec is None or spec.loader is None:
        raise ImportError("build_native.py is missing from the tree")
    module = sys.modules["build_native"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
