"""Memory stays bounded: a client that does not read holds its engine back, one that sends ahead is not read from."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc

from .conftest import CHAT, Bench, EngineRequest, RawClient, answer_ok, eventually, post, settle, within

CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
BIG = b'{"model": "chat", "pad": "' + b"x" * 200_000 + b'"}'
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def client_with_small_buffers(bench: Bench) -> RawClient:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", bench.server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    client = RawClient(reader, writer)
    bench.clients.append(client)
    return client


async def test_a_client_that_does_not_read_stops_the_engine_and_loses_nothing(bench: Bench) -> None:
    written = 0
    total = 64 * 1024 * 1024
    stuck = asyncio.Event()

    async def flood(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(HEAD)
        while written < total:
            writer.write(CHUNK)
            written += 0x10000
            if not stuck.is_set():
                drained = asyncio.ensure_future(writer.drain())
                done, _ = await asyncio.wait([drained], timeout=0.3)
                if not done:
                    stuck.set()
                await drained
            else:
                await writer.drain()
        writer.write(b"0\r\n\r\n")

    engine = await bench.engine()
    engine.script = flood
    bench.route(engine)
    client = await client_with_small_buffers(bench)
    client.send(post(CHAT))
    await within(stuck.wait())
    assert written < total / 2
    async with asyncio.timeout(30):
        await client.reader.readuntil(b"\r\n\r\n")
        received = 0
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            piece = await client.reader.read(1 << 20)
            received += len(piece)
            tail = (tail + piece)[-16:]
    assert received == (total // 0x10000) * len(CHUNK) + len(b"0\r\n\r\n")


async def test_a_client_that_never_reads_is_cut_off(bench: Bench) -> None:
    async def flood(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(CHUNK)
            await writer.drain()

    engine = await bench.engine()
    engine.script = flood
    bench.route(engine)
    client = await client_with_small_buffers(bench)
    client.send(post(CHAT))
    request = await within(engine.arrived.get())
    await eventually(lambda: any(connection._write_paused for connection in bench.context.connections))
    bench.pass_time(301)
    await within(request.gone.wait())
    assert bench.context.metrics.upstream_errors == {("chat", "client_stalled"): 1}


async def test_requests_sent_ahead_are_not_read_while_one_is_served(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def wait(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    engine = await bench.engine()
    engine.script = wait
    bench.route(engine)
    client = await bench.client()
    for _ in range(40):
        client.send(post(BIG))
    await within(engine.arrived.get())
    await settle()
    (connection,) = bench.context.connections
    assert connection._read_paused
    assert bench.context.budget.held < 4 * len(BIG)
    go_on.set()
    for _ in range(40):
        assert (await client.response()).status == 200
    assert bench.context.budget.held == 0


async def never(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    await request.gone.wait()


async def test_a_request_too_many_is_503_and_the_connection_stays_in_step(bench: Bench) -> None:
    engine = await bench.engine()
    engine.script = never
    bench.route(engine)
    bench.context.budget.limit = 100  # enough for one request, head and body, and not for two
    holder = await bench.client()
    holder.send(post(CHAT))
    await within(engine.arrived.get())
    client = await bench.client()
    for _ in range(2):
        client.send(post(CHAT))
        answer = await client.response()
        assert (answer.status, answer.header("retry-after"), answer.header("connection")) == (503, "2", None)
        assert json.loads(answer.body)["error"]["code"] == "overloaded"
    holder.hang_up()
    await eventually(lambda: bench.context.budget.held == 0)
    engine.script = answer_ok
    client.send(post(CHAT))
    assert (await client.response()).status == 200
    assert bench.context.metrics.requests == {("chat", 503): 2, ("chat", 499): 1, ("chat", 200): 1}


async def test_a_body_that_would_be_too_much_is_refused_while_it_is_sent(bench: Bench) -> None:
    bench.context.budget.limit = len(BIG) // 2
    client = await bench.client()
    client.send(post(BIG)[:-10])
    answer = await client.response()
    assert (answer.status, answer.header("retry-after"), answer.header("connection")) == (503, "2", "close")
    assert json.loads(answer.body)["error"]["code"] == "overloaded"
    assert bench.context.budget.held < 1024
    bench.pass_time(2)
    await client.ended()
    await eventually(lambda: bench.context.budget.held == 0)


async def test_a_request_is_held_only_until_its_answer_begins(bench: Bench) -> None:
    async def begin(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"3\r\none\r\n")
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = begin
    bench.route(engine)
    client = await bench.client()
    client.send(post(BIG))
    await eventually(lambda: bench.context.budget.held >= len(BIG))
    await within(client.reader.readuntil(b"one\r\n"))
    assert bench.context.budget.held == 0


async def test_a_body_is_let_go_of_when_its_stream_begins(bench: Bench) -> None:
    async def begin(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        await request.gone.wait()

    engine = await bench.engine()
    engine.script = begin
    bench.route(engine)
    clients = [await bench.client() for _ in range(5)]
    asked = post(b'{"model": "chat", "stream": true, "prompt": "%s"}' % (b"x" * 200_000))
    tracemalloc.start()
    try:
        for client in clients:
            client.send(asked)
            await within(client.reader.readuntil(b"data: 1\n\n"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The engine of this test keeps one copy of each, and nobody else does.
    assert kept < 1.5 * len(asked) * len(clients)
