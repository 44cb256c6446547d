"""TLS on both sides: clients see the certificate of the moment, engines are only believed with one that is trusted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.events import END_OF_CHUNKS, chunk
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.relay.pool import Pool
from mica_router.relay.server import RelayServer
from mica_router.tls import ServerTls

from .conftest import CHAT, OK_RESPONSE, Bench, eventually, post, within


@pytest.fixture
def authority() -> Iterator[trustme.CA]:
    yield trustme.CA()


def write_pair(authority: trustme.CA, folder: Path) -> trustme.LeafCert:
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.crt").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    return issued


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def certificate_of(port: int, context: ssl.SSLContext) -> bytes:
    _, writer = await within(asyncio.open_connection("127.0.0.1", port, ssl=context))
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return found


async def test_a_changed_certificate_is_used_for_new_clients_and_half_a_change_is_not(
    bench: Bench, authority: trustme.CA, tmp_path: Path
) -> None:
    looked: asyncio.Queue[None] = asyncio.Queue()
    go_on = asyncio.Semaphore(0)

    async def wait() -> None:
        looked.put_nowait(None)
        await go_on.acquire()

    async def look() -> None:
        go_on.release()
        await within(looked.get())

    write_pair(authority, tmp_path)
    tls = ServerTls(tmp_path / "tls.crt", tmp_path / "tls.key", wait=wait)
    server = RelayServer(bench.context)
    await server.start(host="127.0.0.1", port=0, tls=tls.context)
    following = asyncio.ensure_future(tls.follow())
    await within(looked.get())
    context = trusting(authority)
    first = await certificate_of(server.port, context)
    key = (tmp_path / "tls.key").read_bytes()
    write_pair(authority, tmp_path)
    new_key = (tmp_path / "tls.key").read_bytes()
    (tmp_path / "tls.key").write_bytes(key)
    await look()
    assert await certificate_of(server.port, context) == first
    (tmp_path / "tls.key").write_bytes(new_key)
    await look()
    assert await certificate_of(server.port, context) != first
    following.cancel()
    await eventually(lambda: not bench.context.connections)
    await server.drain(seconds=0.05)
    bench.context.draining = False


@pytest.mark.parametrize(("trusted", "status"), [(True, 200), (False, 503)])
async def test_an_engine_is_believed_only_with_a_trusted_certificate(
    bench: Bench, authority: trustme.CA, trusted: bool, status: int
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(OK_RESPONSE)
        await writer.drain()
        writer.close()

    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    engine = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
    endpoint = Endpoint("127.0.0.1", engine.sockets[0].getsockname()[1], tls=True)
    bench.context.pool = Pool(clock=bench.clock, tls=trusting(authority) if trusted else None)
    service = Service(key=ServiceKey("team-a", "chat"), model="chat", engines=(Engine(endpoint=endpoint),))
    bench.server.publish(build_table([service]))
    assert (await bench.ask(post(CHAT))).status == status
    engine.close()


async def test_events_of_a_steady_stream_reach_a_tls_client_encrypted(
    bench: Bench, authority: trustme.CA, tmp_path: Path
) -> None:
    events = [chunk(b'data: {"n":%d}\n\n' % number) for number in range(6)]
    wanted = asyncio.Semaphore(1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in [*events, END_OF_CHUNKS]:
            await wanted.acquire()
            writer.write(event)
        await writer.drain()
        writer.close()

    engine = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", engine.sockets[0].getsockname()[1])
    service = Service(key=ServiceKey("team-a", "chat"), model="chat", engines=(Engine(endpoint=endpoint),))
    bench.server.publish(build_table([service]))
    write_pair(authority, tmp_path)
    server = RelayServer(bench.context)
    await server.start(host="127.0.0.1", port=0, tls=ServerTls(tmp_path / "tls.crt", tmp_path / "tls.key").context)
    reader, writer = await within(asyncio.open_connection("127.0.0.1", server.port, ssl=trusting(authority)))
    writer.write(post(CHAT))
    await within(reader.readuntil(b"\r\n\r\n"))
    for event in events:
        assert await within(reader.readexactly(len(event))) == event
        wanted.release()
    assert await within(reader.readexactly(len(END_OF_CHUNKS))) == END_OF_CHUNKS
    writer.transport.abort()
    engine.close()
    await eventually(lambda: not bench.context.connections)
    await server.drain(seconds=0.05)
    bench.context.draining = False
