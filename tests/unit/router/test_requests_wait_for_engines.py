"""Requests without an engine wait: bounded, in order, told so, and let go in steps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from mica_router.core.engines import Engine
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import QueueLimits, Routing
from mica_router.relay.load import LocalCounts
from mica_router.relay.waiting import WaitingRoom

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, RawClient, eventually, post, settle, within

STREAM = b'{"model": "chat", "stream": true}'
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


async def ask_later(bench: Bench, body: bytes = CHAT) -> RawClient:
    client = await bench.client()
    waiting = len(bench.context.load.waiting)
    client.send(post(body))
    await eventually(lambda: len(bench.context.load.waiting) > waiting)
    return client


async def test_a_request_waits_until_an_engine_is_ready_and_is_asked_for_once(bench: Bench) -> None:
    bench.route()
    client = await ask_later(bench)
    bench.pass_time(5)
    demand = bench.context.load.demand(bench.context.table)["chat"]
    assert (demand.in_flight, demand.queued, demand.oldest_wait) == (0, 1, 5)
    engine = await bench.engine()
    bench.route(engine)
    assert (await client.response()).status == 200
    assert len(engine.requests) == 1
    demand = bench.context.load.demand(bench.context.table)["chat"]
    assert (demand.in_flight, demand.queued, demand.oldest_wait) == (0, 0, 0)


async def test_the_line_is_bounded_and_the_wait_too(bench: Bench) -> None:
    bench.route(routing=Routing(queue=QueueLimits(max_requests=1, max_wait=30)))
    first = await ask_later(bench)
    second = await bench.ask(post(CHAT))
    assert second.status == 429
    assert second.header("retry-after") == "2"
    assert json.loads(second.body)["error"]["code"] == "queue_full"
    bench.pass_time(31)
    refused = await first.response()
    assert refused.status == 503
    assert refused.header("retry-after") == "2"
    assert json.loads(refused.body)["error"]["code"] == "queue_timeout"
    assert bench.context.load.counted == 0


async def test_a_client_that_leaves_gives_its_place_away(bench: Bench) -> None:
    bench.route(routing=Routing(queue=QueueLimits(max_requests=1)))
    (await ask_later(bench)).hang_up()
    await eventually(lambda: not bench.context.load.waiting)
    await ask_later(bench)


async def test_a_held_stream_is_told_that_it_waits_and_then_gets_its_events(bench: Bench) -> None:
    async def stream(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS)

    bench.route()
    client = await ask_later(bench, STREAM)
    bench.pass_time(11)
    head = await within(client.reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream")
    comment = b"19\r\n: waiting for an engine\n\n\r\n"
    assert await within(client.reader.readexactly(len(comment))) == comment
    bench.pass_time(11)
    assert await within(client.reader.readexactly(len(comment))) == comment
    engine = await bench.engine()
    engine.script = stream
    bench.route(engine)
    assert await within(client.reader.readuntil(b"0\r\n\r\n")) == EVENTS.partition(b"\r\n\r\n")[2]
    client.send(post(CHAT))
    engine.script = answer_ok
    assert (await client.response()).status == 200


async def answer_ok(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(OK_RESPONSE)


async def test_a_refusal_after_the_head_of_a_held_stream_is_told_as_an_event(bench: Bench) -> None:
    async def refuse(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        body = b'{"error":\n {"message": "too long"}}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    bench.route()
    client = await ask_later(bench, STREAM)
    bench.pass_time(11)
    await within(client.reader.readuntil(b"engine\n\n\r\n"))
    engine = await bench.engine()
    engine.script = refuse
    bench.route(engine)
    rest = await within(client.reader.readuntil(b"0\r\n\r\n"))
    assert b'data: {"error":{"message":"too long"}}\n\ndata: [DONE]\n\n' in rest


async def test_a_held_stream_that_waits_too_long_ends_with_an_error_event(bench: Bench) -> None:
    bench.route(routing=Routing(queue=QueueLimits(max_wait=30)))
    client = await ask_later(bench, STREAM)
    bench.pass_time(11)
    await within(client.reader.readuntil(b"engine\n\n\r\n"))
    bench.pass_time(31)
    rest = await within(client.reader.readuntil(b"0\r\n\r\n"))
    assert b'"code":"queue_timeout"' in rest
    assert b"data: [DONE]\n\n" in rest


async def test_a_cold_start_is_not_met_by_everybody_at_once(bench: Bench) -> None:
    async def never(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await request.gone.wait()

    bench.route()
    for _ in range(20):
        await ask_later(bench)
    engine = await bench.engine()
    engine.script = never
    bench.route(engine)
    seen = []
    for expected in (4, 12, 20):
        await eventually(lambda expected=expected: len(engine.requests) >= expected)  # type: ignore[misc]
        await settle()
        seen.append(len(engine.requests))
        bench.pass_time(0.25)
    assert seen == [4, 12, 20]


async def test_requests_above_an_engines_bound_wait_for_those_before_them(bench: Bench) -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def one_by_one(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await gates[len(engine.requests) - 1].wait()
        writer.write(OK_RESPONSE)

    engine = await bench.engine()
    engine.script = one_by_one
    bounded = Engine(endpoint=engine.endpoint, max_in_flight=1)
    bench.server.publish(build_table([Service(key=ServiceKey("team-a", "chat"), model="chat", engines=(bounded,))]))
    first = await bench.client()
    first.send(post(CHAT))
    await within(engine.arrived.get())
    second = await ask_later(bench)
    third = await ask_later(bench)
    for number, client in enumerate((first, second, third)):
        assert len(engine.requests) == number + 1
        gates[number].set()
        assert (await client.response()).status == 200
        if number < 2:
            await within(engine.arrived.get())
    assert bench.context.metrics.holds == {("chat", "saturated"): 1, ("chat", "queue"): 1}


class Waits:
    """A waiter whose look for an engine is given."""

    waiting_since = 0.0

    def __init__(self, look: Callable[[], bool]) -> None:
        self.look = look

    def try_again(self) -> bool:
        return self.look()


def test_a_look_that_goes_wrong_does_not_keep_others_waiting_for_good() -> None:
    room, key = WaitingRoom(LocalCounts()), ServiceKey("team-a", "chat")
    looks = iter([0, 1])
    room.join(key, Waits(lambda: 1 // next(looks) == 1), room=1)
    with pytest.raises(ZeroDivisionError):
        room.release_step()
    room.release_step()
    assert not room
