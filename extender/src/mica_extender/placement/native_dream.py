"""Dreams by the C kernel: tables equal to those of ``dream.py``, made while the event loop goes on.

A dream in Python takes ten milliseconds of the interpreter, many times over, and every request beside it waits for its turn.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from mica_extender.placement.dream import LEVELS, ROUNDS, SEED, Dream
from mica_extender.placement.fleet import Int64
from mica_extender.placement.kernels import Kernel, NativeKernel


class _Classes(ctypes.Structure):
    _fields_ = (("share", ctypes.c_void_p), ("up_to", ctypes.c_void_p), ("count", ctypes.c_int64))


class _Dreamt(ctypes.Structure):
    _fields_ = tuple((column, ctypes.c_void_p) for column in ("waste", "left", "passed", "random"))


class NativeDream:
    """See ``dream.Dream``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.waste: tuple[int, ...] = (0,) * (LEVELS + 1)
        self.dreamt = False
        self._dream = library.mica_dream
        self._dream.restype = None
        self._memory: list[Int64] = [np.zeros(LEVELS + 1, np.int64) for _ in range(3)]
        self._random = np.array([SEED], np.uint64)
        self._native = _Dreamt(*(column.ctypes.data for column in self._memory), self._random.ctypes.data)

    def go_on(self, classes: Sequence[tuple[int, int]]) -> None:
        """See ``dream.Dream``."""
        self.dreamt = True
        if not classes:
            return
        shares = np.array([share for share, _ in classes], np.int64)
        up_to = np.cumsum([count for _, count in classes], dtype=np.int64)
        native = _Classes(shares.ctypes.data, up_to.ctypes.data, len(classes))
        self._dream(ctypes.byref(native), ctypes.c_int64(ROUNDS), ctypes.byref(self._native))
        self.waste = tuple(self._memory[0].tolist())


def dreams_by(kernel: Kernel) -> Callable[[], Dream | NativeDream]:
    """What makes the dreams that belong to a kernel."""
    if not isinstance(kernel, NativeKernel):
        return Dream
    library = kernel.library
    return lambda: NativeDream(library)
