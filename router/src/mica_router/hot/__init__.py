"""What is done for every read of a steady stream: in C where that was built (`make kernel`, and in wheels), else in Python.

Both do the same (`plain` says what); a library that was built from other sources than those beside it is left alone. `NATIVE`
tells which one runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mica_router.hot import plain
from mica_router.hot.plain import Outlet
from mica_runtime.native import sources_digest


def _is_native() -> bool:
    try:
        from mica_router.hot import _native
    except ImportError:
        return False
    return sources_digest(Path(__file__).parent) == _native.DIGEST


NATIVE: Final = _is_native()

if TYPE_CHECKING or not NATIVE:
    from mica_router.hot.plain import Histogram, Line, Passing, Reel
else:
    from mica_router.hot._native import Histogram, Line, Passing, Reel

__all__ = ["NATIVE", "Histogram", "Line", "Outlet", "Passing", "Reel", "plain"]
