"""Ending a process and changing routes do not lose requests that are under way."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import cast

import pytest

from mica_router.core.engines import Engine
from mica_router.core.routes import EMPTY_TABLE, Service, ServiceKey, build_table
from mica_router.exposition import HistogramValue, Snapshot, keep_models
from mica_router.relay.connection import ClientConnection

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, Script, eventually, post, settle, within


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


@pytest.mark.parametrize("held", [False, True])
async def test_a_request_without_an_answer_is_told_that_the_router_ends(bench: Bench, held: bool) -> None:
    async def never(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = never
    bench.route(*([] if held else [engine]))
    client = await bench.client()
    client.send(post(CHAT))
    await eventually(lambda: bool(bench.context.load.waiting) if held else bool(engine.requests))
    drain = asyncio.ensure_future(bench.server.drain(seconds=0.01))
    answer = await client.response()
    assert (answer.status, answer.header("retry-after"), answer.header("connection")) == (503, "1", "close")
    assert json.loads(answer.body)["error"]["code"] == "router_restarting"
    await within(drain)
    assert bench.context.load.counted == 0


async def test_an_answer_that_a_drain_cuts_cannot_pass_for_a_whole_one(bench: Bench) -> None:
    async def begin(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf of")
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = begin
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    await within(client.reader.readuntil(b"half of"))
    assert await within(bench.server.drain(seconds=0.01)) == 1
    with pytest.raises(ConnectionResetError):
        await within(client.reader.read())


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


async def test_every_name_that_is_served_keeps_its_numbers_and_no_other(bench: Bench) -> None:
    engine = await bench.engine()
    bounds = Engine(endpoint=engine.endpoint)

    def serve(*adapters: str) -> None:
        older = Service(
            key=ServiceKey("a", "chat"), model="chat", aliases=("gpt",), adapters=adapters, created=1, engines=(bounds,)
        )
        younger = replace(older, key=ServiceKey("b", "chat"), created=2)
        bench.server.publish(build_table([older, younger]))

    serve("sql", "legal")
    names = ["chat", "gpt", "a/chat", "b/chat", "sql", "a/chat/sql", "b/chat/sql", "legal", "b/chat/legal"]
    for name in names:
        assert (await bench.ask(post(b'{"model": "%b"}' % name.encode()))).status == 200
    counted = {("chat", 200): 3, ("b/chat", 200): 1, ("sql", 200): 1, ("a/chat/sql", 200): 1, ("b/chat/sql", 200): 1}
    serve("sql", "legal")
    assert bench.context.metrics.requests == counted | {("legal", 200): 1, ("b/chat/legal", 200): 1}
    serve("sql")
    assert bench.context.metrics.requests == counted


def test_the_dead_are_not_counted_for_models_that_are_gone() -> None:
    histogram = HistogramValue([1], 0.5)
    snapshot = Snapshot(
        counters={"requests": {("chat", "200"): 1, ("old", "200"): 1, ("", "404"): 1}, "ejections": {("connect",): 1}},
        histograms={"inter_token_seconds": {("chat", "gpu"): histogram, ("old", "gpu"): histogram}},
    )
    kept = keep_models(snapshot, {"chat"})
    assert kept.counters == {"requests": {("chat", "200"): 1, ("", "404"): 1}, "ejections": {("connect",): 1}}
    assert kept.histograms == {"inter_token_seconds": {("chat", "gpu"): histogram}}


async def test_a_model_that_is_gone_leaves_no_numbers_behind(bench: Bench) -> None:
    engine = await bench.engine()
    engine.script = die_once_then_answer()
    bench.route(engine)
    for _ in range(3):
        await bench.ask(post(CHAT))
    bench.server.publish(bench.context.table)
    context = bench.context
    metrics = context.metrics
    assert (
        {model for model, _ in metrics.requests}
        == {model for model, _ in metrics.upstream_errors}
        == set(metrics.ttfb)
        == {"chat"}
    )
    context.load.health.fault(engine.endpoint, "connect")
    assert context.load.health.watched
    await bench.ask(post(b'{"model": "gpt-9"}'))
    bench.server.publish(EMPTY_TABLE)
    assert metrics.requests == {("", 404): 1}
    assert metrics.upstream_errors == metrics.retries == metrics.ttfb == {}
    assert metrics.decisions == metrics.timings == {}
    assert not context.load.health.watched


def die_once_then_answer() -> Script:
    deaths = iter([True])

    async def script(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        if next(deaths, False):
            writer.transport.abort()
        else:
            writer.write(OK_RESPONSE)

    return script


class BreaksOnce:
    """Stands for a connection in whose check something goes wrong."""

    def __init__(self) -> None:
        self.checks = 0

    def check(self, now: float) -> None:
        self.checks += 1
        if self.checks == 1:
            raise RuntimeError("a bug that its content brings to light")

    def drain(self) -> None:
        """Nothing is under way."""

    stop = abort = drain


async def test_deadlines_outlive_a_check_that_goes_wrong(bench: Bench) -> None:
    broken = BreaksOnce()
    bench.context.connections.add(cast("ClientConnection", broken))
    await eventually(lambda: broken.checks > 1)
    bench.context.connections.clear()
