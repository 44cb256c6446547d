"""One of two engines fails in some way: no request does. What is left when all fail, or when an answer has begun."""

from __future__ import annotations

import asyncio
import json

import pytest

from mica_router.core.continuation import Handling
from mica_router.core.engines import Engine
from mica_router.core.features import Features
from mica_router.core.routing import DEFAULT_ROUTING, EngineDeadlines, Routing

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, Script, answer_ok, eventually, hang, post, settle, within

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def answers(status: bytes) -> Script:
    async def script(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 4\r\n\r\nfail" % status)

    return script


@pytest.mark.parametrize("status", [b"503 Busy", b"500 Broken", b"502 Bad", b"504 Late", b"429 Full"])
async def test_an_answer_that_says_no_is_asked_for_elsewhere(bench: Bench, status: bytes) -> None:
    bad, good = await bench.engine(), await bench.engine()
    bad.script = answers(status)
    bench.route(bad, good)
    assert [(await bench.ask(post(CHAT))).status for _ in range(20)] == [200] * 20
    assert bad.requests


async def test_when_every_engine_says_no_the_last_answer_is_the_clients(bench: Bench) -> None:
    engines = [await bench.engine() for _ in range(2)]
    for engine in engines:
        engine.script = answers(b"500 Broken")
    bench.route(*engines)
    answer = await bench.ask(post(CHAT))
    assert (answer.status, answer.body) == (500, b"fail")
    assert sum(len(engine.requests) for engine in engines) == 2


async def test_a_request_that_may_have_effects_is_repeated_only_when_it_was_not_taken(bench: Bench) -> None:
    bad, good = await bench.engine(), await bench.engine()
    bad.script = answers(b"500 Broken")
    bench.route(bad, good)
    statuses = {(await bench.ask(post(CHAT, path="/v1/responses"))).status for _ in range(4)}
    assert statuses == {200, 500}
    bad.script = answers(b"503 Busy")
    assert {(await bench.ask(post(CHAT, path="/v1/responses"))).status for _ in range(4)} == {200}


async def test_server_errors_in_a_row_take_an_engine_out(bench: Bench) -> None:
    bad, good = await bench.engine(), await bench.engine()
    bad.script = answers(b"500 Broken")
    bench.route(bad, good)
    for _ in range(30):
        await bench.ask(post(CHAT))
    assert len(bad.requests) == 3
    assert bench.context.load.health.ejections == {"status": 1}


async def test_a_hung_engine_loses_nothing_and_is_left_alone_afterwards(bench: Bench) -> None:
    hung, good = await bench.engine(), await bench.engine()
    hung.script = hang
    bench.route(hung, good, routing=Routing(deadlines=EngineDeadlines(first_byte=1)))
    clients = [await bench.client() for _ in range(14)]
    for client in clients:
        client.send(post(CHAT))
    await eventually(lambda: len(hung.requests) == 7)
    bench.pass_time(1.1)
    assert [(await client.response()).status for client in clients] == [200] * 14
    for _ in range(10):
        assert (await bench.ask(post(CHAT))).status == 200
    assert len(hung.requests) == 7


async def test_requests_leave_an_engine_that_a_probe_found_dead(bench: Bench) -> None:
    hung, good = await bench.engine(), await bench.engine()
    hung.script = hang
    bench.route(hung, good)
    clients = [await bench.client() for _ in range(2)]
    for client in clients:
        client.send(post(CHAT))
    await within(hung.arrived.get())
    bench.clock.advance(1)
    for _ in range(3):
        bench.context.load.health.probed(hung.endpoint, alive=False)
    bench.pass_time(0)
    assert [(await client.response()).status for client in clients] == [200, 200]
    assert bench.context.metrics.retries == {("chat", "ejected"): 1}


async def test_an_ejected_engine_comes_back_with_a_growing_share(bench: Bench) -> None:
    engine, other = await bench.engine(), await bench.engine()
    bench.route(engine, other)
    health = bench.context.load.health
    health.fault(engine.endpoint, "connect")
    shares = []
    for seconds in (0, 1.9, 0.2, 2, 6, 3):
        bench.pass_time(seconds)
        shares.append(round(health.fitness.get(engine.endpoint, 1.0), 1))
    assert shares == [0.0, 0.0, 0.1, 0.2, 0.8, 1.0]


async def test_a_stream_whose_engine_dies_ends_with_an_error_event_that_clients_understand(bench: Bench) -> None:
    async def die(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\nff\r\ndata: {half of an ev")
        await writer.drain()
        await heard.wait()
        writer.transport.abort()

    heard = asyncio.Event()
    engine = await bench.engine()
    engine.script = die
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await within(client.reader.readuntil(b"data: 1\n\n\r\n"))
    heard.set()
    size = int(await within(client.reader.readuntil(b"\r\n")), 16)
    event = await within(client.reader.readexactly(size))
    data, done, rest = event.split(b"\n\n")
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "engine_lost"
    assert (done, rest) == (b"data: [DONE]", b"")
    assert await within(client.reader.readexactly(7)) == b"\r\n0\r\n\r\n"
    assert bench.context.metrics.requests == {("chat", 502): 1}
    assert bench.context.metrics.resume_refusals == {("chat", "not_recorded"): 1}
    engine.script = answer_ok
    client.send(post(CHAT))
    assert (await client.response()).status == 200


async def test_a_stream_that_falls_silent_ends_with_an_error_event(bench: Bench) -> None:
    async def stall(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n")
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = stall
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await within(client.reader.readuntil(b"data: 1\n\n\r\n"))
    bench.pass_time(301)
    assert b"engine_lost" in await within(client.reader.readuntil(b"0\r\n\r\n"))
    await within(engine.requests[0].gone.wait())


async def test_the_whole_exchange_may_have_a_deadline(bench: Bench) -> None:
    engine = await bench.engine()
    engine.script = hang
    bench.route(engine, routing=Routing(deadlines=EngineDeadlines(total=5)))
    client = await bench.client()
    client.send(post(CHAT))
    request = await within(engine.arrived.get())
    bench.pass_time(5.1)
    answer = await client.response()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (504, "total_timeout")
    await within(request.gone.wait())


async def test_a_hedged_request_takes_the_first_answer_and_cancels_the_other(bench: Bench) -> None:
    slow, quick = await bench.engine(), await bench.engine()
    slow.script = hang
    bench.route(slow, quick, routing=Routing(hedge_after=0.5, policy="session"))
    for _ in range(8):
        client = await bench.client()
        client.send(post(CHAT, headers=b"X-Session-Id: %d\r\n" % _))
        await settle()
        bench.pass_time(0.6)
        assert (await client.response()).status == 200
    assert slow.requests
    for request in slow.requests:
        await within(request.gone.wait())
    assert bench.context.metrics.decisions[("chat", "gpu", "hedge")] == len(slow.requests)


@pytest.mark.parametrize(
    ("routing", "attempts"), [(DEFAULT_ROUTING, 1), (Routing(hedge_after=0.5), 2)], ids=["default", "hedged"]
)
async def test_a_slow_request_has_one_attempt_unless_hedging_is_asked_for(bench: Bench, routing: Routing, attempts: int) -> None:
    answer = asyncio.Event()

    async def slow(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await answer.wait()
        writer.write(OK_RESPONSE)

    engines = [await bench.engine() for _ in range(3)]
    for engine in engines:
        engine.script = slow
    bench.route(*engines, routing=routing)
    client = await bench.client()
    client.send(post(CHAT))
    await eventually(lambda: any(engine.requests for engine in engines))
    for seconds in (0.6, 0.6, 5, 60, 290, 240):  # up to the deadline of the first byte, which would be another story
        bench.pass_time(seconds)
        await eventually(lambda: sum(len(engine.requests) for engine in engines) >= attempts)
        await settle()
    answer.set()
    assert (await client.response()).status == 200
    assert sorted(len(engine.requests) for engine in engines) == [0] * (3 - attempts) + [1] * attempts
    assert sum(bench.context.metrics.decisions.values()) == attempts


async def test_a_stream_is_never_hedged(bench: Bench) -> None:
    engines = [await bench.engine() for _ in range(2)]
    for engine in engines:
        engine.script = hang
    bench.route(*engines, routing=Routing(hedge_after=0.5))
    client = await bench.client()
    client.send(post(b'{"model": "chat", "stream": true}'))
    await settle()
    bench.pass_time(5)
    await settle()
    assert sum(len(engine.requests) for engine in engines) == 1


async def test_four_dead_engines_do_not_hide_the_fifth(bench: Bench) -> None:
    engines = [await bench.engine() for _ in range(5)]
    bench.route(*engines)
    for engine in engines[:4]:
        await engine.stop()
    assert [(await bench.ask(post(CHAT))).status for _ in range(5)] == [200] * 5


class CountingBook:
    """Opens nothing, and counts how often it is asked to."""

    def __init__(self) -> None:
        self.asked = 0

    def open(self, features: Features, engine: Engine) -> Handling:
        self.asked += 1
        return Handling()


@pytest.mark.parametrize("resume", [True, False])
async def test_a_service_that_switches_resume_off_has_no_stream_recorded(bench: Bench, resume: bool) -> None:
    book = CountingBook()
    bench.context.book = book
    bench.route(await bench.engine(), routing=Routing(resume=resume))
    await bench.ask(post(b'{"model": "chat", "stream": true}'))
    assert book.asked == int(resume)
