"""Requests and stream events per second of one core, and what a router adds to a request that is alone.

The router has one core to itself, the engines and the load share another. What a router can do per core is 1 ÷ (CPU of its
process per request): that does not depend on how fast the other core is. Contenders take turns, round after round; the figures
are medians of rounds, the ratio to a peer is of the same run. On a machine whose speed changes from minute to minute it is the
instructions, with those of the kernel, that tell contenders apart.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks._report import Anchor, Figure, Goal, at_least, at_most
from benchmarks.router.contenders import MICA, PEERS, Contender
from benchmarks.router.engine import EVENTS, PACE_S
from benchmarks.router.interpreter import PYTHON
from benchmarks.router.options import Options
from benchmarks.router.rig import Rig, load, rig

PUBLISHED: Final = {"production-stack": (1_270.0, 22_800.0), "FastAPI and httpx, a client per request (sysHAX)": (44.0, 2_000.0)}
"""Requests and events per second and core of what does not install from a registry by itself, measured by us in another run."""

REQUESTS: Final = 15_000.0
EVENTS_PER_SECOND: Final = 70_000.0
"""The goals, set on a machine where nginx passed 58,800 requests and 95,100 events, and vllm-router 14,500 and 68,400."""

_ADDED: Final = at_most(0.15)

SHARES: Final = {
    "nginx": (REQUESTS / 58_800, EVENTS_PER_SECOND / 95_100),
    "vllm-router": (REQUESTS / 14_500, EVENTS_PER_SECOND / 68_400),
}
"""The same goals beside what a peer does in this run, for machines of another speed."""

CONNECTIONS: Final = 32
STREAMS: Final = 64


@dataclass(slots=True)
class Speed:
    """Per round: CPU seconds per request, requests/s, CPU seconds per event, seconds of a lonely request (median), instructions
    per request and per event.
    """

    per_request: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    per_event: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    request_instructions: list[float] = field(default_factory=list)
    event_instructions: list[float] = field(default_factory=list)


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
    return told(found, direct)


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
        speed.request_instructions.append(plain.instructions / plain.requests)
        speed.rate.append(plain.requests / plain.seconds)
        streams = load(url, "stream", connections=STREAMS, seconds=options.seconds, router=process)
        speed.per_event.append(streams.cpu / (streams.requests * EVENTS))
        speed.event_instructions.append(streams.instructions / (streams.requests * EVENTS))
        speed.alone.append(load(url, "plain", connections=1, seconds=options.seconds / 4).p50)


def told(found: Mapping[str, Speed], direct: Speed) -> Sequence[Figure]:
    """What was found of each contender, by name, and without a router: ours, and ours beside each."""
    ours = found[MICA.name]
    how_plain = f"{CONNECTIONS} connections, 0.6 kB bodies, {PYTHON}"
    how_stream = f"{STREAMS} streams of {EVENTS} events {PACE_S * 1000:.0f} ms apart, {PYTHON}"
    requests, events = _Told("requests", how_plain, ours.per_request), _Told("stream events", how_stream, ours.per_event)
    requests_cost = _Told("a request", how_plain, ours.request_instructions)
    events_cost = _Told("a stream event", how_stream, ours.event_instructions)
    added = _added(ours, direct)
    figures = [
        requests.rate(goal=at_least(REQUESTS)),
        events.rate(goal=at_least(EVENTS_PER_SECOND)),
        Figure(
            "added to a lonely request, p50", added, "ms", "median of one connection minus that without a router", None, _ADDED
        ),
        Figure("load without a router", statistics.median(direct.rate), "1/s", "load and engine on one core, no router between"),
    ]
    for name, speed in found.items():
        if speed is ours:
            continue
        for_requests, for_events = SHARES.get(name, (None, None))
        alone = Anchor(_added(speed, direct), f"{name}, measured in this run")
        figures += [
            requests.rate_against(name, speed.per_request, for_requests),
            events.rate_against(name, speed.per_event, for_events),
            *requests_cost.instructions_against(name, speed.request_instructions, for_requests),
            *events_cost.instructions_against(name, speed.event_instructions, for_events),
            Figure(f"added to a lonely request against {name}", added, "ms", "as above", anchor=alone),
        ]
    for name, (theirs_plain, theirs_stream) in PUBLISHED.items():
        source = f"{name}, measured by us in another run on this kind of machine"
        figures += [requests.rate(name, Anchor(theirs_plain, source)), events.rate(name, Anchor(theirs_stream, source))]
    return figures


def _added(speed: Speed, direct: Speed) -> float:
    return (statistics.median(speed.alone) - statistics.median(direct.alone)) * 1000


@dataclass(frozen=True, slots=True)
class _Told:
    """Figures of ``what``: the median of ``ours``, a cost of each, alone and beside others."""

    what: str
    how: str
    ours: Sequence[float]

    def rate(self, beside: str = "", anchor: Anchor | None = None, goal: Goal | None = None) -> Figure:
        """How many a second and core."""
        name = f"{self.what} per second and core{f' beside {beside}' if beside else ''}"
        return Figure(name, 1 / statistics.median(self.ours), "1/s", f"1 ÷ CPU of each, {self.how}", anchor, goal)

    def rate_against(self, name: str, theirs: Sequence[float], share: float | None) -> Figure:
        """The same beside a peer of this run, at least ``share`` of it."""
        anchor = Anchor(1 / statistics.median(theirs), f"{name}, measured in this run")
        return self.rate(name, anchor, None if share is None else at_least(anchor.value * share))

    def instructions_against(self, name: str, theirs: Sequence[float], share: float | None) -> Sequence[Figure]:
        """What each costs beside a peer of this run: at most what lets it do ``share`` of the peer's. None if nobody counted."""
        if not (any(self.ours) and any(theirs)):
            return ()
        anchor = Anchor(statistics.median(theirs), f"{name}, measured in this run")
        goal = None if share is None else at_most(anchor.value / share)
        how = f"of the router's processes, kernel included, perf_event_open; {self.how}"
        name = f"instructions of {self.what} beside {name}"
        return [Figure(name, statistics.median(self.ours), "instructions", how, anchor, goal)]
