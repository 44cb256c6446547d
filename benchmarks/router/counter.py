"""Instructions, counted by the processor: a busy machine does not change them. Of this process, or of others and the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from types import TracebackType
from typing import Final, Self

from benchmarks._command import CannotMeasure

_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_HARDWARE, _INSTRUCTIONS = 0, 1
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_ENABLE, _DISABLE = 0x2400, 0x2401
_ATTR_SIZE: Final = 112
"""Of `struct perf_event_attr` (linux/perf_event.h): type, size, config, period, sample type, read format, flags, …"""


def _open(flags: int, task: int = 0) -> int:
    """A counter of one task (0: the one that calls). Raises CannotMeasure where the kernel does not let us count, and
    ProcessLookupError where the task has ended.
    """
    attributes = struct.pack("IIQQQQQ", _HARDWARE, _ATTR_SIZE, _INSTRUCTIONS, 0, 0, 0, flags).ljust(_ATTR_SIZE, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    number = _PERF_EVENT_OPEN.get(os.uname().machine, -1)
    file: int = libc.syscall(number, ctypes.c_char_p(attributes), task, -1, -1, 0)
    if file < 0 and ctypes.get_errno() == errno.ESRCH:
        raise ProcessLookupError(errno.ESRCH, f"task {task} has ended")
    if file < 0:
        raise CannotMeasure(
            f"instructions cannot be counted here: perf_event_open: {os.strerror(ctypes.get_errno())}; "
            "it needs processor counters, and root or kernel.perf_event_paranoid of 2 or less (1 where the kernel is counted too)"
        )
    return file


def _read(file: int) -> int:
    counted: int = struct.unpack("Q", os.read(file, 8))[0]
    return counted


@contextlib.contextmanager
def counting(tasks: Iterable[int]) -> Iterator[Callable[[], int]]:
    """While open, how many instructions these tasks and those that they start have executed, in the kernel as well.

    Raises CannotMeasure.
    """
    files: list[int] = []
    try:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):  # threads come and go
                files.append(_open(_INHERIT | _EXCLUDE_HV, task))
        yield lambda: sum(map(_read, files))
    finally:
        for file in files:
            os.close(file)


@cache
def may_count() -> bool:
    """Whether `counting` works here; said once, in words, where it does not."""
    try:
        with counting([os.getpid()]):
            return True
    except CannotMeasure as error:
        print(f"… without instructions: {error}", file=sys.stderr, flush=True)
        return False


class Counter:
    """Counts this task's instructions in user space. Open until its block ends. Raises CannotMeasure."""

    def __init__(self) -> None:
        self._file = _open(_DISABLED | _EXCLUDE_KERNEL | _EXCLUDE_HV)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def per_step(self, steps: Sequence[Callable[[], object]]) -> float:
        """Instructions of these steps divided by their number, garbage collection included."""
        gc.collect()
        before = _read(self._file)
        fcntl.ioctl(self._file, _ENABLE, 0)
        for step in steps:
            step()
        fcntl.ioctl(self._file, _DISABLE, 0)
        return (_read(self._file) - before) / len(steps)
