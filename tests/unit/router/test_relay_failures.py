"""What happens when engines or clients fail at any point of an exchange."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from random import Random

import pytest

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.relay.load import LocalCounts

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, answer_ok, die_silently, eventually, hang, post, settle, within


def closed_port() -> Endpoint:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint("127.0.0.1", probe.getsockname()[1])


def route_to(bench: Bench, *endpoints: Endpoint) -> None:
    bench.server.publish(
        build_table(
            [
                Service(
                    key=ServiceKey("team-a", "chat"),
                    model="chat",
                    engines=tuple(Engine(endpoint=endpoint) for endpoint in endpoints),
                )
            ]
        )
    )


def counts(bench: Bench) -> dict[Endpoint, int]:
    """What is counted at engines."""
    kept = bench.context.load._counts
    assert isinstance(kept, LocalCounts)
    return {endpoint: count for endpoint, count in kept._counts.items() if count}


async def test_a_reused_connection_that_died_is_replaced_by_a_fresh_one(bench: Bench) -> None:
    engine = await bench.engine()

    async def answer_then_die_on_reuse(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        on_this_connection = [seen for seen in engine.requests if seen.connection == request.connection]
        if len(on_this_connection) > 1:
            writer.transport.abort()
        else:
            writer.write(OK_RESPONSE)

    engine.script = answer_then_die_on_reuse
    bench.route(engine)
    statuses = [(await bench.ask(post(CHAT, path="/v1/responses"))).status for _ in range(6)]
    assert statuses == [200] * 6
    assert bench.context.metrics.retries == {("chat", "stale_connection"): 5}


async def test_a_fresh_connection_that_died_is_not_retried_on_the_same_engine(bench: Bench) -> None:
    engine = await bench.engine()
    engine.script = die_silently
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert answer.status == 503
    assert len(engine.requests) == 1


async def test_an_engine_that_dies_before_the_first_byte_costs_nothing_when_another_lives(bench: Bench) -> None:
    dead, alive = await bench.engine(), await bench.engine()
    dead.script = die_silently
    bench.route(dead, alive)
    statuses = [(await bench.ask(post(CHAT))).status for _ in range(10)]
    assert statuses == [200] * 10
    assert bench.context.metrics.retries[("chat", "disconnected")] >= 1


async def test_a_request_that_may_have_effects_is_not_sent_to_a_second_engine(bench: Bench) -> None:
    first, second = await bench.engine(), await bench.engine()
    first.script = second.script = die_silently
    bench.route(first, second)
    assert (await bench.ask(post(CHAT, path="/v1/responses"))).status == 503
    assert len(first.requests) + len(second.requests) == 1


async def test_a_refused_connection_is_tried_elsewhere_and_then_avoided(bench: Bench) -> None:
    engine = await bench.engine()
    route_to(bench, closed_port(), engine.endpoint)
    for _ in range(8):
        assert (await bench.ask(post(CHAT))).status == 200
    assert bench.context.metrics.upstream_errors == {("chat", "connect"): 1}
    bench.pass_time(3)
    bench.pass_time(11)
    for _ in range(2):
        assert (await bench.ask(post(CHAT))).status == 200
    assert bench.context.metrics.upstream_errors == {("chat", "connect"): 2}


async def test_all_engines_dead_is_503_with_retry_after(bench: Bench) -> None:
    route_to(bench, closed_port(), closed_port())
    answer = await bench.ask(post(CHAT))
    assert answer.status == 503
    assert answer.header("retry-after") == "2"
    assert json.loads(answer.body)["error"]["code"] == "engine_unreachable"


async def test_a_client_that_leaves_a_stream_stops_the_engine(bench: Bench) -> None:
    async def endless(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = endless
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await client.reader.readuntil(b"one\r\n")
    client.hang_up()
    await within(engine.requests[0].gone.wait())
    assert bench.context.metrics.requests == {("chat", 499): 1}
    assert bench.context.load.demand(bench.context.table)["chat"].in_flight == 0


async def test_a_client_that_leaves_before_the_answer_stops_the_engine(bench: Bench) -> None:
    engine = await bench.engine()
    engine.script = hang
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    request = await within(engine.arrived.get())
    client.writer.close()
    await within(request.gone.wait())


async def test_half_an_answer_never_looks_like_a_whole_one(bench: Bench) -> None:
    async def half(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        writer.close()

    engine = await bench.engine()
    engine.script = half
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    rest = await client.ended()
    assert b"0\r\n\r\n" not in rest
    assert bench.context.metrics.upstream_errors == {("chat", "truncated"): 1}
    assert bench.context.metrics.requests == {("chat", 599): 1}


async def test_a_reset_is_not_the_end_of_an_answer_that_ends_with_the_connection(bench: Bench) -> None:
    async def reset_halfway(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf of")
        await heard.wait()
        linger_zero = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
        writer.transport.abort()

    heard = asyncio.Event()
    engine = await bench.engine()
    engine.script = reset_halfway
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await within(client.reader.readuntil(b"half of"))
    heard.set()
    with pytest.raises(ConnectionResetError):
        await within(client.reader.read())
    assert bench.context.metrics.upstream_errors == {("chat", "reset"): 1}
    assert bench.context.metrics.requests == {("chat", 599): 1}


async def test_an_answer_that_is_no_http_is_502(bench: Bench) -> None:
    async def gibberish(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ERR what?\r\n\r\n")

    engine = await bench.engine()
    engine.script = gibberish
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "engine_protocol_error"


async def test_a_silent_engine_is_given_up_at_the_first_byte_deadline(bench: Bench) -> None:
    engine = await bench.engine()
    engine.script = hang
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    request = await within(engine.arrived.get())
    bench.pass_time(599)
    assert not request.gone.is_set()
    bench.pass_time(2)
    assert (await client.response()).status == 504
    await within(request.gone.wait())


async def test_a_stream_that_falls_silent_is_cut_at_the_idle_deadline(bench: Bench) -> None:
    async def stall(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = stall
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await client.reader.readuntil(b"one\r\n")
    bench.pass_time(301)
    await client.ended()
    await within(engine.requests[0].gone.wait())
    assert bench.context.metrics.upstream_errors == {("chat", "idle_timeout"): 1}


async def test_every_way_out_gives_back_what_was_counted(bench: Bench) -> None:
    engine, other = await bench.engine(), await bench.engine()
    arrivals = engine.arrived = other.arrived
    bench.route(engine, other)
    for script in (die_silently, hang):
        engine.script = other.script = script
        client = await bench.client()
        client.send(post(CHAT))
        await within(arrivals.get())
        client.hang_up()
        await settle()
    bench.pass_time(1)
    assert counts(bench) == {}
    assert bench.context.load.counted == 0


async def test_chunks_are_never_sent_to_an_http_1_0_client(bench: Bench) -> None:
    async def chunked(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n")

    engine = await bench.engine()
    engine.script = chunked
    bench.route(engine)
    assert (await bench.ask(post(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"))).status == 502


async def test_a_storm_of_leaving_clients_leaves_nothing_behind(bench: Bench) -> None:
    """Clients hang up at every stage, engines die at every stage; afterwards all counts are zero and requests work."""
    random = Random(7)

    async def moody(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        stage = random.randrange(5)
        if stage == 0:
            writer.transport.abort()
            return
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3\r\none\r\n" * 5 + b"0\r\n\r\n"
        for start in range(0, len(whole), 11):
            writer.write(whole[start : start + 11])
            await asyncio.sleep(0)
            if stage == 1 and random.random() < 0.2:
                writer.transport.abort()
                return

    engines = [await bench.engine() for _ in range(3)]
    for engine in engines:
        engine.script = moody
    bench.route(*engines)

    async def visit() -> None:
        client = await bench.client()
        client.send(post(CHAT) * random.randrange(1, 4))
        for _ in range(random.randrange(40)):
            await asyncio.sleep(0)
        client.hang_up()

    for _ in range(20):
        await asyncio.gather(*(visit() for _ in range(10)))
    load = bench.context.load
    await eventually(lambda: not bench.context.connections and counts(bench) == {} and load.counted == 0)
    for engine in engines:
        engine.script = answer_ok
    assert [(await bench.ask(post(CHAT))).status for _ in range(6)] == [200] * 6
