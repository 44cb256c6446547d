"""What a GPU engine would do to its slice, through the CUDA driver API: memory for weights and KV, a launch per token.

The work itself is a kernel that is busy for a given time and computes nothing. On the simulated driver the function `spin`
is built in; on a real one it is compiled from the PTX below. Without libcuda there is nothing to mirror (`open_gpu` returns
None).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

MIB: Final = 1024 * 1024
OUT_OF_MEMORY: Final = 2
LIBRARY: Final = "libcuda.so.1"

PTX: Final = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u64 ns)
{
    .reg .u64 %rd<5>;
    .reg .pred %p;
    ld.param.u64 %rd1, [ns];
    mov.u64 %rd2, %globaltimer;
again:
    mov.u64 %rd3, %globaltimer;
    sub.u64 %rd4, %rd3, %rd2;
    setp.lt.u64 %p, %rd4, %rd1;
    @%p bra again;
    ret;
}
\0"""


class GpuError(Exception):
    """The driver refused; the message says what was asked and what it answered."""


class Pace(Protocol):
    """Waits until the GPU has done the work of one token."""

    def __call__(self) -> None:
        """Blocks the calling thread."""


def no_gpu() -> None:
    """The pace of an engine without a GPU: llama.cpp's own."""


class Library(Protocol):
    """A loaded driver library: any attribute is a function of it."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        """The function of that name."""


class Driver:
    """The few calls that are needed, with errors as exceptions."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def call(self, function: str, *arguments: object, what: str = "") -> None:
        """Call a driver function. Raises GpuError unless it answers CUDA_SUCCESS."""
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise GpuError(f"{what or function}: {self._name(status)}")

    def _name(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(status, ctypes.byref(text))
        name = text.value.decode() if text.value else "unknown error"
        return f"{name} ({status})"


class Gpu:
    """One context on device 0 with the memory of weights and KV. Threads may call `stream` side by side."""

    def __init__(self, driver: Driver, *, weights_mib: int, kv_mib: int, kernel_us: int) -> None:
        self._driver = driver
        self._nanoseconds = ctypes.c_uint64(kernel_us * 1000)
        self._context = ctypes.c_void_p()
        self._spin = ctypes.c_void_p()
        driver.call("cuInit", 0)
        device = ctypes.c_int()
        driver.call("cuDeviceGet", ctypes.byref(device), 0)
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        driver.call("cuCtxSetCurrent", self._context)
        self._allocate(weights_mib, "weights")
        self._allocate(kv_mib, "KV cache")
        module = ctypes.c_void_p()
        driver.call("cuModuleLoadData", ctypes.byref(module), PTX)
        driver.call("cuModuleGetFunction", ctypes.byref(self._spin), module, b"spin")

    def _allocate(self, mib: int, what: str) -> None:
        address = ctypes.c_uint64()
        size = ctypes.c_size_t(mib * MIB)
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), size, what=f"cannot allocate {mib} MiB for the {what}")

    @contextmanager
    def stream(self) -> Iterator[Pace]:
        """A stream of the calling thread, as a pace. Raises GpuError."""
        stream = ctypes.c_void_p()
        self._driver.call("cuCtxSetCurrent", self._context)
        self._driver.call("cuStreamCreate", ctypes.byref(stream), 1)
        owner = threading.get_ident()

        def pace() -> None:
            assert threading.get_ident() == owner, "a stream belongs to the thread that opened it"
            self._launch(stream)

        try:
            yield pace
        finally:
            self._driver.call("cuStreamDestroy_v2", stream)

    def _launch(self, stream: ctypes.c_void_p) -> None:
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(self._nanoseconds))
        self._driver.call("cuLaunchKernel", self._spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, None)
        self._driver.call("cuStreamSynchronize", stream)


def open_gpu(*, weights_mib: int, kv_mib: int, kernel_us: int) -> Gpu | None:
    """The GPU of this container, loaded as asked; None where there is no driver. Raises GpuError."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return Gpu(Driver(library), weights_mib=weights_mib, kv_mib=kv_mib, kernel_us=kernel_us)
