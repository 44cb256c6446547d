"""Instructions that this process executes in user space, counted by the processor: a busy machine does not change them."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from benchmarks._command import CannotMeasure

_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_HARDWARE, _INSTRUCTIONS = 0, 1
_DISABLED, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 5, 1 << 6
_ENABLE, _DISABLE = 0x2400, 0x2401
_ATTR_SIZE: Final = 112
"""Of `struct perf_event_attr` (linux/perf_event.h): type, size, config, period, sample type, read format, flags, …"""


class Counter:
    """Open until its block ends. Raises CannotMeasure where the kernel does not let us count."""

    def __init__(self) -> None:
        flags = _DISABLED | _EXCLUDE_KERNEL | _EXCLUDE_HV
        attributes = struct.pack("IIQQQQQ", _HARDWARE, _ATTR_SIZE, _INSTRUCTIONS, 0, 0, 0, flags).ljust(_ATTR_SIZE, b"\0")
        libc = ctypes.CDLL(None, use_errno=True)
        number = _PERF_EVENT_OPEN.get(os.uname().machine, -1)
        self._file = libc.syscall(number, ctypes.c_char_p(attributes), 0, -1, -1, 0)
        if self._file < 0:
            raise CannotMeasure(
                f"instructions cannot be counted here: perf_event_open: {os.strerror(ctypes.get_errno())}; "
                "it needs processor counters and kernel.perf_event_paranoid of 2 or less"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def per_step(self, steps: Sequence[Callable[[], object]]) -> float:
        """Instructions of these steps divided by their number, garbage collection included."""
        gc.collect()
        before = self._total()
        fcntl.ioctl(self._file, _ENABLE, 0)
        for step in steps:
            step()
        fcntl.ioctl(self._file, _DISABLE, 0)
        return (self._total() - before) / len(steps)

    def _total(self) -> int:
        counted: int = struct.unpack("Q", os.read(self._file, 8))[0]
        return counted
