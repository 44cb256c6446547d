"""A program on a simulated card that fills its slice with one family of memory: ``families.py FAMILY SEED``.

Says that its context is there, waits for a line. Then three times: allocates amounts drawn from the seed until it was refused
eight times running and says so, waits, says what cuMemGetInfo shows, waits, frees half. Every refusal must be out-of-memory.
It runs under the limiter, as a program of its own with nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
from collections.abc import Callable
from ctypes import byref, c_int, c_size_t, c_ubyte, c_uint, c_ushort, c_void_p
from typing import Final

MIB: Final = 1 << 20
OUT_OF_MEMORY: Final = 2
RUNNING: Final = 8
u64 = ctypes.c_uint64


PLACE: Final = (("type", c_int), ("handles", c_int), ("where", c_int), ("id", c_int), ("security", c_void_p))
"""What the properties of pools and of virtual memory begin with."""


class Props(ctypes.Structure):
    """Of a pool."""

    _fields_ = (*PLACE, ("max_size", c_size_t), ("usage", c_ushort), ("reserved", c_ubyte * 54))


class Memory(ctypes.Structure):
    """Of virtual memory."""

    _fields_ = (*PLACE, ("flags", c_ubyte * 8))


class Array(ctypes.Structure):
    """Of an array."""

    _fields_ = (
        ("width", c_size_t),
        ("height", c_size_t),
        ("depth", c_size_t),
        ("format", c_int),
        ("channels", c_uint),
        ("flags", c_uint),
    )


class AllocNode(ctypes.Structure):
    """Of a graph's allocation."""

    _fields_ = (("pool", Props), ("access", c_void_p), ("count", c_size_t), ("size", c_size_t), ("at", u64))


class Program:
    """Driver calls, one allocating function per family: it returns the error, and a function that frees."""

    def __init__(self, seed: int) -> None:
        self.cu = ctypes.CDLL("libcuda.so.1")
        self.chance = random.Random(seed)
        context = c_void_p()
        self.must(self.cu.cuInit(0))
        self.must(self.cu.cuDevicePrimaryCtxRetain(byref(context), 0))
        self.must(self.cu.cuCtxSetCurrent(context))
        self.pool = c_void_p()
        self.must(self.cu.cuMemPoolCreate(byref(self.pool), byref(Props(1, 0, 1, 0))))
        self.step = c_size_t()
        self.must(self.cu.cuMemGetAllocationGranularity(byref(self.step), byref(Memory(1, 0, 1, 0)), 0))

    def must(self, error: int) -> None:
        """Stop at an error that is none of a full slice."""
        if error:
            sys.exit(f"error {error}")

    def amount(self) -> int:
        """A size drawn from the seed."""
        return self.chance.choice([self.chance.randrange(1, 4096), self.chance.randrange(1, 24 * MIB)])

    def _by_address(self, call: Callable[[u64], int]) -> tuple[int, Callable[[], int]]:
        at = u64()
        return call(at), lambda: int(self.cu.cuMemFree_v2(at))

    def linear(self) -> tuple[int, Callable[[], int]]:
        """cuMemAlloc."""
        return self._by_address(lambda at: self.cu.cuMemAlloc_v2(byref(at), c_size_t(self.amount())))

    def managed(self) -> tuple[int, Callable[[], int]]:
        """cuMemAllocManaged."""
        return self._by_address(lambda at: self.cu.cuMemAllocManaged(byref(at), c_size_t(self.amount()), 1))

    def pitched(self) -> tuple[int, Callable[[], int]]:
        """cuMemAllocPitch."""
        width, height = c_size_t(self.chance.randrange(1, 5000)), c_size_t(self.chance.randrange(1, 3000))
        pitch = c_size_t()
        return self._by_address(lambda at: self.cu.cuMemAllocPitch_v2(byref(at), byref(pitch), width, height, 4))

    def stream_ordered(self) -> tuple[int, Callable[[], int]]:
        """cuMemAllocAsync."""
        at = u64()
        error = self.cu.cuMemAllocAsync(byref(at), c_size_t(self.amount()), None)
        return error, lambda: int(self.cu.cuMemFreeAsync(at, None))

    def own_pool(self) -> tuple[int, Callable[[], int]]:
        """cuMemAllocFromPoolAsync."""
        at = u64()
        error = self.cu.cuMemAllocFromPoolAsync(byref(at), c_size_t(self.amount()), self.pool, None)
        return error, lambda: int(self.cu.cuMemFreeAsync(at, None))

    def virtual(self) -> tuple[int, Callable[[], int]]:
        """cuMemCreate, mapped, its handle released: it lives by the mapping alone."""
        handle, at = u64(), u64()
        size = c_size_t(self.chance.randrange(1, 8) * self.step.value)
        error = self.cu.cuMemCreate(byref(handle), size, byref(Memory(1, 0, 1, 0)), u64(0))
        if error:
            return error, lambda: 0
        self.must(self.cu.cuMemAddressReserve(byref(at), size, c_size_t(0), u64(0), u64(0)))
        self.must(self.cu.cuMemMap(at, size, c_size_t(0), handle, u64(0)))
        self.must(self.cu.cuMemRelease(handle))
        return 0, lambda: int(self.cu.cuMemUnmap(at, size))

    def array(self) -> tuple[int, Callable[[], int]]:
        """cuArray3DCreate."""
        made = c_void_p()
        shape = Array(self.chance.randrange(1, 3000), self.chance.randrange(0, 3000), self.chance.randrange(0, 4), 0x20, 1, 0)
        return self.cu.cuArray3DCreate_v2(byref(made), byref(shape)), lambda: int(self.cu.cuArrayDestroy(made))

    def mipmap(self) -> tuple[int, Callable[[], int]]:
        """cuMipmappedArrayCreate."""
        made = c_void_p()
        shape = Array(self.chance.randrange(1, 3000), self.chance.randrange(1, 3000), 0, 0x20, 1, 0)
        error = self.cu.cuMipmappedArrayCreate(byref(made), byref(shape), self.chance.randrange(1, 8))
        return error, lambda: int(self.cu.cuMipmappedArrayDestroy(made))

    def graph(self) -> tuple[int, Callable[[], int]]:
        """A graph that allocates, launched: its memory stays in use until it is freed, and reserved until it is trimmed."""
        graph, node, ready = c_void_p(), c_void_p(), c_void_p()
        params = AllocNode(Props(1, 0, 1, 0), None, 0, self.amount(), 0)
        self.must(self.cu.cuGraphCreate(byref(graph), 0))
        error = self.cu.cuGraphAddMemAllocNode(byref(node), graph, None, c_size_t(0), byref(params))
        error = error or self.cu.cuGraphInstantiateWithFlags(byref(ready), graph, u64(0))
        error = error or self.cu.cuGraphLaunch(ready, None)
        return error, lambda: int(self.cu.cuMemFree_v2(u64(params.at)) or self.cu.cuDeviceGraphMemTrim(0))

    def module(self) -> tuple[int, Callable[[], int]]:
        """cuModuleLoadData."""
        made = c_void_p()
        return self.cu.cuModuleLoadData(byref(made), b"any"), lambda: int(self.cu.cuModuleUnload(made))

    def shown(self) -> int:
        """Bytes that cuMemGetInfo says are in use."""
        free, total = c_size_t(), c_size_t()
        self.must(self.cu.cuMemGetInfo_v2(byref(free), byref(total)))
        return total.value - free.value


FAMILIES: Final = (
    "linear",
    "pitched",
    "managed",
    "stream_ordered",
    "own_pool",
    "virtual",
    "array",
    "mipmap",
    "graph",
    "module",
)


def main() -> None:
    """Entry point."""
    family, seed = sys.argv[1:]
    program = Program(int(seed))
    take = getattr(program, family)
    held: list[Callable[[], int]] = []
    print("{}", flush=True)  # its context is there
    sys.stdin.readline()
    for _ in range(3):
        refused, wrong = 0, set()
        while refused < RUNNING and len(held) < 5000:
            error, drop = take()
            refused = refused + 1 if error else 0
            if error and error != OUT_OF_MEMORY:
                wrong.add(error)
            if not error:
                held.append(drop)
        program.must(program.cu.cuCtxSynchronize())
        print(json.dumps({"held": len(held), "wrong": sorted(wrong)}), flush=True)
        sys.stdin.readline()
        print(json.dumps({"shown": program.shown()}), flush=True)
        sys.stdin.readline()
        program.chance.shuffle(held)
        for drop in held[: len(held) // 2]:
            program.must(drop())
        held = held[len(held) // 2 :]


if __name__ == "__main__":
    main()
