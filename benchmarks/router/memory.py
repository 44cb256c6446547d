"""What a worker and an open stream cost in memory."""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks._report import Figure, at_most
from benchmarks.router.contenders import KEY, MICA, MICA_WORKERS
from benchmarks.router.options import Options
from benchmarks.router.processes import module, other_core
from benchmarks.router.rig import Rig, load, rig

STREAMS: Final = 10_000
_LOAD: Final = "after 64 connections of plain load and 64 streams"


def figures(options: Options) -> Sequence[Figure]:
    """Memory of our router: after load, and with streams that stand still."""
    streams = _allowed_streams()
    with (
        tempfile.TemporaryDirectory(prefix="mica-bench-") as folder,
        rig(Path(folder)) as bench,
    ):
        worker = _worker(bench, options)
        return [worker, *_single(bench, options, streams)]


def _worker(bench: Rig, options: Options) -> Figure:
    with bench.router(MICA_WORKERS) as (url, process):
        _serve(url, options)
        sizes = process.memory_mib()
    del sizes[process.pid]
    how = "resident; the larger of two, beside the process that starts them and has the admin port; " + _LOAD
    return Figure("memory of a worker", max(sizes.values()), "MiB", how, goal=at_most(60))


def _serve(url: str, options: Options) -> None:
    load(url, "plain", connections=64, seconds=options.seconds)
    load(url, "stream", connections=64, seconds=options.seconds)


def _single(bench: Rig, options: Options, streams: int) -> Sequence[Figure]:
    with bench.router(MICA) as (url, process):
        _serve(url, options)
        whole = max(process.memory_mib().values())
        before = sum(process.memory_mib().values())
        words = module("benchmarks.router.loader", url, "idle", streams, 10, KEY)
        loader = subprocess.Popen(["taskset", "-c", str(other_core()), *words], stdout=subprocess.PIPE, text=True)
        try:
            assert loader.stdout is not None
            if json.loads(loader.stdout.readline() or "{}").get("open") != streams:
                raise CannotMeasure(f"{streams} connections could not be opened")
            time.sleep(5)
            held = sum(process.memory_mib().values()) - before
        finally:
            loader.kill()
            loader.wait()
        return [
            Figure(
                "memory of a router of one process",
                whole,
                "MiB",
                "resident; worker and admin port in one; " + _LOAD,
            ),
            Figure(
                "memory of an idle stream",
                held * 1024 / streams,
                "KiB",
                f"growth with {streams:,} streams that got their first event, divided by their number",
                goal=at_most(20),
            ),
        ]


def _allowed_streams() -> int:
    """Streams for which the router has two file descriptors each, at most `STREAMS`; children inherit the limit set here."""
    wanted = STREAMS * 2 + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(STREAMS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1000) // 2)
