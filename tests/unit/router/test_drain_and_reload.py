"""Ending a process and changing routes do not lose requests that are under way."""

from __future__ import annotations

import asyncio

import pytest

from mica_router.core.routes import EMPTY_TABLE

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, post, settle, within


async def test_a_drain_lets_a_response_end_and_closes_idle_clients_at_once(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def slow(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK_RESPONSE)

    engine = await bench.engine()
    engine.script = slow
    bench.route(engine)
    idle = await bench.client()
    busy = await bench.client()
    busy.send(post(CHAT))
    await within(engine.arrived.get())
    drain = asyncio.ensure_future(bench.server.drain(seconds=30))
    assert await idle.ended() == b""
    go_on.set()
    answer = await busy.response()
    assert answer.status == 200
    assert answer.header("connection") == "close"
    assert await within(drain) == 0


async def test_a_drain_cuts_what_does_not_end_in_time(bench: Bench) -> None:
    async def never(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = never
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    request = await within(engine.arrived.get())
    assert await within(bench.server.drain(seconds=0.01)) == 1
    await within(request.gone.wait())


async def test_a_draining_router_accepts_no_new_client(bench: Bench) -> None:
    port = bench.server.port
    await bench.server.drain(seconds=0.01)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_service_that_goes_away_lets_its_stream_end(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def slow(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        writer.write(b"3\r\none\r\n0\r\n\r\n")

    engine = await bench.engine()
    engine.script = slow
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await client.reader.readuntil(b"\r\n\r\n")
    bench.server.publish(EMPTY_TABLE)
    go_on.set()
    assert await client.reader.readuntil(b"0\r\n\r\n") == b"3\r\none\r\n0\r\n\r\n"
    client.send(post(CHAT))
    assert (await client.response()).status == 404


async def test_idle_connections_to_engines_that_are_gone_are_closed(bench: Bench) -> None:
    engine, other = await bench.engine(), await bench.engine()
    bench.route(engine)
    await bench.ask(post(CHAT))
    bench.route(other)
    await within(engine.requests[0].gone.wait())
    await settle()
    assert (await bench.ask(post(CHAT))).status == 200
    assert len(other.requests) == 1
