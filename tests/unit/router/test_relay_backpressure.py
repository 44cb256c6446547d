"""Memory stays bounded: a client that does not read holds its engine back, one that sends ahead is not read from."""

from __future__ import annotations

import asyncio
import socket

from .conftest import CHAT, Bench, EngineRequest, RawClient, eventually, post, settle, within

CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
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
    body = b'{"model": "chat", "pad": "' + b"x" * 50_000 + b'"}'
    for _ in range(400):
        client.send(post(body))
    await within(engine.arrived.get())
    await settle()
    (connection,) = bench.context.connections
    assert connection._read_paused
    assert len(connection._waiting) < 40
    go_on.set()
    for _ in range(400):
        assert (await client.response()).status == 200
