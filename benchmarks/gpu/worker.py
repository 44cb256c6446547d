"""A driver-API program of the experiments: ``worker.py facts | calls | spin … | pattern …``; JSON lines on stdout.

It runs as a process of its own, bare or under the limiter, on a real or a simulated card. Standard library only.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_void_p
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.kernel import PTX

u64 = ctypes.c_uint64
KERNEL_NODE_UINTS: Final = 7
SMS_ATTRIBUTE: Final = 16
PATTERN: Final = 0xA5


class KernelNode(ctypes.Structure):
    """Parameters of a graph's kernel node."""

    _fields_ = (
        ("function", c_void_p),
        *((f"n{i}", c_uint) for i in range(KERNEL_NODE_UINTS)),
        ("params", c_void_p),
        ("extra", c_void_p),
    )


class Card:
    """A context on device 0 and the experiments' kernel, calibrated."""

    def __init__(self) -> None:
        self.cu = ctypes.CDLL("libcuda.so.1")
        context = c_void_p()
        self.must("cuInit", 0)
        self.must("cuDevicePrimaryCtxRetain", byref(context), 0)
        self.must("cuCtxSetCurrent", context)
        module, self.function = c_void_p(), c_void_p()
        self.must("cuModuleLoadData", byref(module), c_char_p(PTX))
        self.simulated = self.cu.cuModuleGetFunction(byref(self.function), module, b"spin") == 0
        if not self.simulated:
            self.must("cuModuleGetFunction", byref(self.function), module, b"burn")
        sms = c_int()
        self.must("cuDeviceGetAttribute", byref(sms), SMS_ATTRIBUTE, 0)
        self.grid = sms.value
        self.sink = u64()
        self.must("cuMemAlloc_v2", byref(self.sink), c_size_t(256))
        self.rounds_per_ns = 1.0

    def must(self, name: str, *args: Any) -> None:
        """Call the driver; end the program at an error."""
        error = getattr(self.cu, name)(*args)
        if error:
            print(json.dumps({"failed": name, "error": error}), flush=True)
            sys.exit(1)

    def arguments(self, ns: float) -> tuple[Any, Any]:
        """Kernel arguments for that much work, and what has to stay alive meanwhile."""
        amount = u64(max(1, int(ns * self.rounds_per_ns)))
        return (c_void_p * 2)(ctypes.addressof(amount), ctypes.addressof(self.sink)), amount

    def launch(self, params: Any, stream: Any = None) -> None:
        """Launch the kernel once on every multiprocessor."""
        self.must("cuLaunchKernel", self.function, self.grid, 1, 1, 128, 1, 1, 0, stream, params, None)

    def stream(self) -> c_void_p:
        """A stream that waits for no other."""
        made = c_void_p()
        self.must("cuStreamCreate", byref(made), 1)
        return made

    def event(self) -> c_void_p:
        """An event."""
        made = c_void_p()
        self.must("cuEventCreate", byref(made), 0)
        return made

    def calibrate(self, rounds_per_ns: float) -> float:
        """Rounds of the kernel in a nanosecond: as measured before, or (0) measured now. The simulated one needs none."""
        if self.simulated or rounds_per_ns:
            self.rounds_per_ns = rounds_per_ns or 1.0
            return self.rounds_per_ns
        begin, end, took = self.event(), self.event(), []
        params, keep = self.arguments(2_000_000)
        for _ in range(20):
            self.must("cuEventRecord", begin, None)
            self.launch(params)
            self.must("cuEventRecord", end, None)
            self.must("cuCtxSynchronize")
            ms = c_float()
            self.must("cuEventElapsedTime", byref(ms), begin, end)
            took.append(ms.value * 1e6)
        self.rounds_per_ns = keep.value / statistics.median(took)
        return self.rounds_per_ns

    def graph(self, ns: float, nodes: int) -> tuple[c_void_p, list[Any]]:
        """A graph of kernels one after the other."""
        graph, made, previous = c_void_p(), c_void_p(), None
        self.must("cuGraphCreate", byref(graph), 0)
        params, keep = self.arguments(ns)
        node = KernelNode(self.function, self.grid, 1, 1, 128, 1, 1, 0, ctypes.addressof(params), None)
        for _ in range(nodes):
            added, before = c_void_p(), (c_void_p * 1)(previous)
            self.must("cuGraphAddKernelNode_v2", byref(added), graph, before, c_size_t(int(previous is not None)), byref(node))
            previous = added
        self.must("cuGraphInstantiateWithFlags", byref(made), graph, u64(0))
        return made, [params, keep, node]


def spin(words: argparse.Namespace) -> None:
    """Launch kernels for a while, ``depth`` between two waits; count what was done in each second."""
    card = Card()
    rounds = card.calibrate(words.rounds)
    streams = [card.stream() for _ in range(words.streams)]
    params, keep = card.arguments(words.ns)
    graph, alive = card.graph(words.ns, words.graph) if words.graph else (None, [])
    say(ready=True, rounds=rounds)
    sys.stdin.readline()
    windows, done, begin, started = [], 0, time.monotonic(), time.monotonic()
    while time.monotonic() - started < words.seconds:
        for n in range(words.depth):
            stream = streams[n % len(streams)]
            if graph:
                card.must("cuGraphLaunch", graph, stream)
            else:
                card.launch(params, stream)
        card.must("cuCtxSynchronize")
        done += words.depth
        if time.monotonic() - begin >= 1:
            windows.append(done / (time.monotonic() - begin))
            begin, done = time.monotonic(), 0
    took = time.monotonic() - begin
    if not windows or took > 0.5:
        windows.append(done / max(took, 1e-9))
    say(windows=windows, kept=len(alive) + (keep is not None))


def calls(words: argparse.Namespace) -> None:
    """Nanoseconds of a launch, a graph launch, an allocation with its free, cuMemGetInfo, an event's record and query."""
    card = Card()
    card.calibrate(0.0)
    params, _ = card.arguments(1000)
    graph, _alive = card.graph(1000, 10)
    event, at, free, total = card.event(), u64(), c_size_t(), c_size_t()

    def allocate() -> None:
        card.must("cuMemAlloc_v2", byref(at), c_size_t(4096))
        card.must("cuMemFree_v2", at)

    kinds: dict[str, Callable[[], Any]] = {
        "launch": lambda: card.launch(params),
        "graph launch": lambda: card.must("cuGraphLaunch", graph, None),
        "alloc + free": allocate,
        "cuMemGetInfo": lambda: card.must("cuMemGetInfo_v2", byref(free), byref(total)),
        "event record": lambda: card.must("cuEventRecord", event, None),
        "event query": lambda: card.cu.cuEventQuery(event),
    }
    found = {}
    for name, call in kinds.items():
        batches = []
        for _ in range(words.batches):
            card.must("cuCtxSynchronize")
            begin = time.perf_counter_ns()
            for _ in range(200):
                call()
            batches.append((time.perf_counter_ns() - begin) / 200)
        found[name] = statistics.median(batches)
    say(**found)


def facts(words: argparse.Namespace) -> None:
    """What is assumed of the driver: dlsym and cuGetProcAddress agree, names, event resolution."""
    cu = ctypes.CDLL("libcuda.so.1")
    free, total, version = c_size_t(), c_size_t(), c_int()
    if cu.cuInit(0) or cu.cuDriverGetVersion(byref(version)):
        say(failed="cuInit")
        sys.exit(1)
    differ, absent = [], []
    for base in json.loads(words.names):
        for flags in (0, 2):
            pointer, status = c_void_p(), c_int()
            error = cu.cuGetProcAddress_v2(base.encode(), byref(pointer), version.value, u64(flags), byref(status))
            if error or not pointer.value:
                absent.append(base)
                continue
            if pointer.value not in {ctypes.cast(form, c_void_p).value for form in forms(cu, base)}:
                differ.append(f"{base} flag {flags}")
    card = Card()
    card.must("cuMemGetInfo_v2", byref(free), byref(total))
    begin, end, ms, steps = card.event(), card.event(), c_float(), set()
    for ns in range(1000, 40_000, 700):
        params, _keep = card.arguments(ns)
        card.must("cuEventRecord", begin, None)
        card.launch(params)
        card.must("cuEventRecord", end, None)
        card.must("cuCtxSynchronize")
        card.must("cuEventElapsedTime", byref(ms), begin, end)
        steps.add(round(ms.value * 1e6))
    ordered = sorted(steps)
    gaps = [b - a for a, b in itertools.pairwise(ordered) if b > a]
    say(version=version.value, differ=differ, absent=sorted(set(absent)), resolution_ns=min(gaps, default=0), sms=card.grid)


def forms(cu: ctypes.CDLL, base: str) -> list[Any]:
    """The driver's exported functions of that name, whatever their version or stream form."""
    names = [base + version + form for version in ("", "_v2", "_v3", "_v4") for form in ("", "_ptsz", "_ptds")]
    return [found for found in (getattr(cu, name, None) for name in names) if found is not None]


def pattern(words: argparse.Namespace) -> None:
    """Fill memory with a pattern and end (write), or count its bytes in memory of a new process (read)."""
    card = Card()
    size = c_size_t(words.mib << 20)
    at = u64()
    card.must("cuMemAlloc_v2", byref(at), size)
    if words.action == "write":
        card.must("cuMemsetD8_v2", at, c_ubyte(PATTERN), size)
        card.must("cuCtxSynchronize")
        say(written=size.value)
        return
    host = (c_ubyte * size.value)()
    card.must("cuMemcpyDtoH_v2", host, at, size)
    say(found=bytes(host).count(PATTERN), zeros=bytes(host).count(0))


def say(**what: Any) -> None:
    """One line of JSON."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("spin")
    one.set_defaults(run=spin)
    one.add_argument("--ns", type=float, required=True)
    one.add_argument("--seconds", type=float, required=True)
    one.add_argument("--rounds", type=float, default=0.0)
    one.add_argument("--depth", type=int, default=1)
    one.add_argument("--streams", type=int, default=1)
    one.add_argument("--graph", type=int, default=0)
    one = parts.add_parser("calls")
    one.set_defaults(run=calls)
    one.add_argument("--batches", type=int, default=100)
    one = parts.add_parser("facts")
    one.set_defaults(run=facts)
    one.add_argument("--names", required=True)
    one = parts.add_parser("pattern")
    one.set_defaults(run=pattern)
    one.add_argument("action", choices=("write", "read"))
    one.add_argument("--mib", type=int, default=256)
    words = parser.parse_args()
    words.run(words)


if __name__ == "__main__":
    main()
