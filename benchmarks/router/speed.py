"""Requests and stream events per second of one core, and what a router adds to a request that is alone.

The router has one core to itself, the engines and the load share another. What a router can do per core is 1 ÷ (CPU of its
process per request): that does not depend on how fast the other core is. Contenders take turns, round after round; the figures
are medians of rounds, the ratio to a peer is of the same run.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks._report import Anchor, Figure, at_least, at_most
from benchmarks.router.contenders import MICA, PEERS, Contender
from benchmarks.router.engine import EVENTS, PACE_S
from benchmarks.router.options import Options
from benchmarks.router.rig import Rig, load, rig

PUBLISHED: Final = {"production-stack": (1_270.0, 22_800.0), "FastAPI and httpx, a client per request (sysHAX)": (44.0, 2_000.0)}
"""Requests and events per second and core of what does not install from a registry by itself, measured by us in another run."""

CONNECTIONS: Final = 32
STREAMS: Final = 64


@dataclass(slots=True)
class Speed:
    """Per round: CPU seconds per request, requests/s, CPU seconds per event, seconds of a lonely request (median)."""

    per_request: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    per_event: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


def figures(options: Options) -> Sequence[Figure]:
    """All contenders, in turns."""
    contenders = (MICA, *(PEERS[name] for name in options.peers))
    found = {contender.name: Speed() for contender in contenders}
    direct = Speed()
    with tempfile.TemporaryDirectory(prefix="mica-bench-") as folder, rig(Path(folder)) as bench:
        for number in range(options.rounds):
            _direct(bench, direct, options)
            for contender in contenders:
                print(f"… round {number + 1} of {options.rounds}: {contender.name}", file=sys.stderr, flush=True)
                _measure(bench, contender, found[contender.name], options)
    return list(_told(found, direct))


def _direct(bench: Rig, speed: Speed, options: Options) -> None:
    url = f"http://127.0.0.1:{bench.engines[0]}"
    plain = load(url, "plain", connections=CONNECTIONS, seconds=options.seconds / 2)
    speed.rate.append(plain.requests / plain.seconds)
    speed.alone.append(load(url, "plain", connections=1, seconds=options.seconds / 4).p50)


def _measure(bench: Rig, contender: Contender, speed: Speed, options: Options) -> None:
    with bench.router(contender) as (url, process):
        load(url, "plain", connections=CONNECTIONS, seconds=0.5)
        plain = load(url, "plain", connections=CONNECTIONS, seconds=options.seconds, router=process)
        speed.per_request.append(plain.cpu / plain.requests)
        speed.rate.append(plain.requests / plain.seconds)
        streams = load(url, "stream", connections=STREAMS, seconds=options.seconds, router=process)
        speed.per_event.append(streams.cpu / (streams.requests * EVENTS))
        speed.alone.append(load(url, "plain", connections=1, seconds=options.seconds / 4).p50)


def _told(found: dict[str, Speed], direct: Speed) -> Sequence[Figure]:
    ours = found.pop(MICA.name)
    requests, events = 1 / statistics.median(ours.per_request), 1 / statistics.median(ours.per_event)
    added = (statistics.median(ours.alone) - statistics.median(direct.alone)) * 1000
    how_plain = f"1 ÷ CPU per request, {CONNECTIONS} connections, 0.6 kB bodies"
    how_stream = f"1 ÷ CPU per event, {STREAMS} streams of {EVENTS} events {PACE_S * 1000:.0f} ms apart"
    told = [
        Figure("requests per second and core", requests, "1/s", how_plain, goal=at_least(15_000)),
        Figure("stream events per second and core", events, "1/s", how_stream, goal=at_least(70_000)),
        Figure(
            "added to a lonely request, p50",
            added,
            "ms",
            "one connection; median minus that without a router",
            goal=at_most(0.15),
        ),
        Figure("load without a router", statistics.median(direct.rate), "1/s", "load and engine on one core, no router between"),
    ]
    for name, speed in found.items():
        theirs = Anchor(1 / statistics.median(speed.per_request), f"{name}, measured in this run")
        told.append(Figure(f"requests per second and core against {name}", requests, "1/s", how_plain, anchor=theirs))
        theirs = Anchor(1 / statistics.median(speed.per_event), f"{name}, measured in this run")
        told.append(Figure(f"stream events per second and core against {name}", events, "1/s", how_stream, anchor=theirs))
        alone = Anchor((statistics.median(speed.alone) - statistics.median(direct.alone)) * 1000, f"{name}, measured in this run")
        told.append(Figure(f"added to a lonely request against {name}", added, "ms", "as above", anchor=alone))
    for name, (theirs_plain, theirs_stream) in PUBLISHED.items():
        source = f"{name}, measured by us in another run on this kind of machine"
        told.append(
            Figure(f"requests per second and core beside {name}", requests, "1/s", how_plain, Anchor(theirs_plain, source))
        )
        told.append(Figure(f"stream events beside {name}", events, "1/s", how_stream, Anchor(theirs_stream, source)))
    return told
