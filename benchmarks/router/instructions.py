"""What one request and one event of a stream cost in our own code: instructions, and calls of Python functions.

The relay is put together as in production and given bytes directly, without sockets and without an event loop's own work:
transports are made up, so that the figures hold on a busy machine. What the kernel and the loop cost on top is in part `speed`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import FrameType
from typing import Any, Final, cast

import uvloop

from benchmarks._report import Figure
from benchmarks.router.contenders import KEY
from benchmarks.router.counter import Counter
from benchmarks.router.engine import COMPLETIONS, END, EVENT_WITH_IDS, EVENTS, FIRST, LENGTHS, MODEL, plain, stream_head
from benchmarks.router.loader import request
from benchmarks.router.options import Options
from mica_router.assembly import Relay
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import Routing
from mica_router.relay.connection import ClientConnection
from mica_router.relay.upstream import UpstreamConnection
from mica_router.settings import RouterSettings

URL: Final = "http://127.0.0.1:8000"
ENGINES: Final = (Endpoint("127.0.0.1", 9001), Endpoint("127.0.0.1", 9002))
_SECOND: Final = 1_700_000_000


class Wire:
    """A transport that takes everything and keeps the last. Its methods are functions of C, so that they cost next to nothing."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque(maxlen=1)
        self.write = self.sent.append
        self.is_closing = self.get_write_buffer_size = bool
        nothing: dict[str, None] = {}
        self.get_extra_info = nothing.get


class Bench:
    """One client connection and one connection to each engine."""

    def __init__(self) -> None:
        self.relay = Relay(RouterSettings())
        routing = Routing(api_keys=(sha256(KEY.encode()).digest(),))
        engines = tuple(Engine(endpoint=endpoint, kind="vllm") for endpoint in ENGINES)
        self.relay.publish(
            build_table([Service(key=ServiceKey("default", MODEL), model=MODEL, engines=engines, routing=routing)])
        )
        context = self.relay.context
        self.client = ClientConnection(context)
        self.client_wire = Wire()
        self.client.connection_made(cast(asyncio.Transport, self.client_wire))
        self.upstreams = []
        for endpoint in ENGINES:
            upstream = UpstreamConnection(endpoint)
            wire = Wire()
            upstream.connection_made(cast(asyncio.Transport, wire))
            context.pool.give(upstream)
            self.upstreams.append((upstream, wire.sent))

    def ask(self, message: bytes) -> UpstreamConnection:
        """The client sends; the connection on which the request came out."""
        self.client.data_received(message)
        for upstream, sent in self.upstreams:
            if sent:
                sent.clear()
                return upstream
        raise AssertionError("no engine was asked")


def requests(bench: Bench) -> list[Callable[[], None]]:
    """One step per length: a request and its answer."""
    messages = [request(URL, kind="plain", key=KEY, number=number) for number in range(LENGTHS)]
    answers = [plain(body, _SECOND) for body in COMPLETIONS]

    def step(number: int) -> Callable[[], None]:
        def run() -> None:
            bench.ask(messages[number]).data_received(answers[number * 7 % LENGTHS])

        return run

    return [step(number) for number in range(LENGTHS)]


def stream(bench: Bench, number: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """Begin, an event, the end."""
    message, head = request(URL, kind="stream", key=KEY, number=number), stream_head(_SECOND)
    used: list[UpstreamConnection] = []

    def begin() -> None:
        used[:] = [bench.ask(message)]
        used[0].data_received(head + FIRST)

    def event() -> None:
        used[0].data_received(EVENT_WITH_IDS)

    def end() -> None:
        used[0].data_received(END)

    return begin, event, end


def count_calls(step: Callable[[], None]) -> list[str]:
    """Names of the Python functions that are called."""
    called: list[str] = []

    def note(frame: FrameType, what: str, argument: Any) -> None:
        if what == "call":
            called.append(f"{frame.f_code.co_filename.rpartition('mica_router/')[2]}:{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return [name for name in called if "benchmarks" not in name]


@dataclass(frozen=True, slots=True)
class Cost:
    """Instructions and calls of Python functions of ours."""

    instructions: float
    calls: int


def measure() -> dict[str, Cost]:
    """What a request costs, an event in the middle of a stream, and one with its share of the stream's begin and end."""
    bench = Bench()
    steps = requests(bench)
    begin, event, end = stream(bench, 3)
    whole = [begin, *[event] * (EVENTS - 1), end]
    with Counter() as counter:
        # Twice with a stream in between, so that every head was seen at both engines.
        for step in (*steps, *whole) * 2:
            step()
        empty = counter.per_step([bool] * 1000)
        request_costs = counter.per_step(steps) - empty
        begin()
        event_costs = counter.per_step([event] * 1000) - empty
        end()
        stream_costs = counter.per_step(whole * 50) - empty
    calls = [len(count_calls(step)) for step in (steps[0], begin, event, end)]
    return {
        "a request": Cost(request_costs, calls[0]),
        "an event of a stream": Cost(event_costs, calls[2]),
        "an event with its share of begin and end": Cost(stream_costs, round((calls[1] + calls[3]) / EVENTS + calls[2])),
    }


async def _measured() -> dict[str, Cost]:
    return measure()


def figures(options: Options) -> Sequence[Figure]:
    """In this process, on uvloop."""
    how = "our code alone, made-up transports, perf_event_open, user space"
    return [
        Figure(f"{what} of {name}", value, what, how)
        for name, cost in uvloop.run(_measured()).items()
        for what, value in (("instructions", cost.instructions), ("Python calls", float(cost.calls)))
    ]
