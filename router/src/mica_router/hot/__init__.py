"""What is done for every read of a steady stream: in C where that was built (`make kernel`, and in wheels), else in Python.

Both do the same (`plain` says what); a library that was built from other sources than those beside it is left alone. `NATIVE`
tells which one runs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mica_router.hot import plain
from mica_router.hot.plain import Outlet


def sources_digest(directory: Path = Path(__file__).parent) -> str:
    """Names the C part's sources, as ``build_native.py`` does."""
    digest = hashlib.sha256()
    for file in sorted([*directory.glob("*.c"), *directory.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _is_native() -> bool:
    try:
        from mica_router.hot import _native
    except ImportError:
        return False
    return sources_digest() == _native.DIGEST


NATIVE: Final = _is_native()

if TYPE_CHECKING or not NATIVE:
    from mica_router.hot.plain import Histogram, Line, Passing, Reel
else:
    from mica_router.hot._native import Histogram, Line, Passing, Reel

__all__ = ["NATIVE", "Histogram", "Line", "Outlet", "Passing", "Reel", "plain", "sources_digest"]
