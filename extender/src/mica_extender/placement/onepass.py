"""Filter and prioritize for a moderate list of names in one call of the C kernel: names in, answer out.

For a hundred nodes the calls between numpy's operations cost ten times what the operations do. What the kernel cannot tell, or a
longer list, has no answer here and goes the long way (``answers``, ``kernels``, ``scoring``), which writes the same bytes.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mica_extender.placement.answers import REASONS, Answers, NativeAnswers
from mica_extender.placement.fleet import Fleet
from mica_extender.placement.kernels import CODES, CompiledShape, Kernel, NativeKernel, native_fleet
from mica_extender.placement.scoring import CompiledTables

MAX_NAMES: Final = 2048
"""Names that are answered here; kube-scheduler asks about 500 of 5,000 nodes."""
MAX_BYTES: Final = 2**16
"""Bytes of their JSON."""
_SCORE_BYTES: Final = 40
_FIXED_BYTES: Final = 128


class Known(ctypes.Structure):
    """Where the kernel finds and writes what is remembered of one shape; the arrays are the caller's to keep alive."""

    _fields_ = tuple((column, ctypes.c_void_p) for column in ("codes", "permanent", "decided_at", "scores", "scored_at"))


class _Question(ctypes.Structure):
    _fields_ = (("names", ctypes.c_void_p), ("raw", ctypes.c_char_p), ("length", ctypes.c_int64))


_COLUMNS: Final[dict[str, type[np.generic]]] = {
    "rows": np.int32,
    "starts": np.int32,
    "ends": np.int32,
    "codes": np.uint8,
    "permanent": np.uint8,
    "scores": np.int64,
}


class _Work(ctypes.Structure):
    _fields_ = (
        ("capacity", ctypes.c_int64),
        *((column, ctypes.c_void_p) for column in _COLUMNS),
        ("tally", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


class Sorted(NamedTuple):
    """An answer of filter, and how many nodes had which code (by number)."""

    body: bytes
    tally: list[int]


class OnePass:
    """Answers from what is remembered of a shape; keeps that current. One at a time: the room for an answer is shared."""

    def __init__(self, kernel: NativeKernel, answers: NativeAnswers) -> None:
        self._answers = answers
        self._filter, self._prioritize = kernel.library.mica_filter, kernel.library.mica_prioritize
        self._filter.restype = self._prioritize.restype = ctypes.c_int64
        # The pointers in _work do not keep their arrays alive.
        self._columns: list[npt.NDArray[Any]] = [np.empty(MAX_NAMES, kind) for kind in _COLUMNS.values()]
        self._tally = (ctypes.c_int64 * len(CODES))()
        longest = max(_SCORE_BYTES, *(len(reason) + 8 for reason in REASONS))
        self._out = (ctypes.c_char * (MAX_BYTES + MAX_NAMES * longest + _FIXED_BYTES))()
        addresses = [column.ctypes.data for column in self._columns]
        self._work = ctypes.byref(_Work(MAX_NAMES, *addresses, ctypes.addressof(self._tally), ctypes.addressof(self._out)))

    def filter(self, fleet: Fleet, shape: CompiledShape, known: Known, raw: bytes) -> Sorted | None:
        """Nodes that fit, that do not now, and that never will."""
        if len(raw) > MAX_BYTES:
            return None
        size = self._filter(
            *(self._question(fleet, raw), ctypes.byref(native_fleet(fleet)), ctypes.byref(shape.refresh(fleet).native)),
            *(ctypes.byref(known), self._work, self._answers.reasons),
        )
        return None if size < 0 else Sorted(ctypes.string_at(self._out, size), self._tally[:])

    def prioritize(self, fleet: Fleet, shape: CompiledShape, tables: CompiledTables, known: Known, raw: bytes) -> bytes | None:
        """The score of each node; 0 where the pod does not fit. ``tables``: what the remembered scores were made from."""
        if len(raw) > MAX_BYTES:
            return None
        size = self._prioritize(
            *(self._question(fleet, raw), ctypes.byref(native_fleet(fleet)), ctypes.byref(shape.refresh(fleet).native)),
            *(ctypes.byref(tables.native), ctypes.byref(known), self._work),
        )
        return None if size < 0 else ctypes.string_at(self._out, size)

    def _question(self, fleet: Fleet, raw: bytes) -> Any:
        return ctypes.byref(_Question(self._answers.index_of(fleet), raw, len(raw)))


def one_pass(kernel: Kernel, answers: Answers) -> OnePass | None:
    """What answers in one call, where kernel and answers are the C ones."""
    if isinstance(kernel, NativeKernel) and isinstance(answers, NativeAnswers):
        return OnePass(kernel, answers)
    return None
