"""Which Python runs the routers that are written in it. Engines and load are not what is measured: they run on ours.

Ours is meant for images that are based on a distribution, whose Python was optimized with a profile. One that was compiled
without it (pyenv's is) costs the router about a seventh of its speed, and the peers in Rust and C were compiled with all
optimizations too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final


def _distribution_python() -> str:
    """The distribution's interpreter of the version that runs this, if there is one, else what runs this."""
    found = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    return str(found) if found.exists() else sys.executable


PYTHON: Final = _distribution_python()


def environment_for() -> dict[str, str]:
    """Environment in which `PYTHON` finds what this process can import."""
    if sys.executable == PYTHON:
        return dict(os.environ)
    paths = [path for path in sys.path if path and not path.startswith(f"{sys.base_prefix}/lib")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
