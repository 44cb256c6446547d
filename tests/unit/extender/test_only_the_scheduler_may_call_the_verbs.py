"""Mutual TLS of the scheduler's port: the authority signs, the name decides."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from mica_extender.asgi import answer
from mica_extender.scheduling.app import ALPN, named_client_protocol
from mica_runtime.http import TlsFiles, serve
from mica_runtime.http2 import frames
from mica_runtime.http2.connection import Reply
from mica_runtime.http2.frames import Kind


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, body=b"{}")


async def reply_ok(method: str, path: str, body: bytes | None) -> Reply:
    return Reply(f"{method} {path}".encode())


class Guarded:
    """A server that lets in clients named mica-scheduler."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("127.0.0.1")
        (folder / "tls.crt").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
        (folder / "ca.crt").write_bytes(self.authority.cert_pem.bytes())
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    async def run(self) -> None:
        tls = TlsFiles(self.folder, client_ca=True)
        await serve(
            ok, host="127.0.0.1", port=self.port, tls=tls, protocol=named_client_protocol("mica-scheduler", reply_ok), alpn=ALPN
        )

    async def call(self, *, name: str | None, authority: trustme.CA | None = None) -> int:
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        if name is not None:
            (authority or self.authority).issue_cert(f"{name}.invalid", common_name=name).configure_cert(context)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"https://127.0.0.1:{self.port}/filter", ssl=context) as reply,
        ):
            return reply.status

    async def call_http2(self, *, name: str) -> bytes:
        """The body of an answer over HTTP/2."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        context.set_alpn_protocols(["h2"])
        self.authority.issue_cert(f"{name}.invalid", common_name=name).configure_cert(context)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        try:
            block = b"\x83" + b"\x04\x07/filter" + b"\x87"
            writer.write(frames.PREFACE + frames.settings({}))
            writer.write(frames.frame(Kind.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, block))
            while True:
                size, kind, *_ = frames.head(await reader.readexactly(frames.HEAD_SIZE), 0)
                payload = await reader.readexactly(size)
                if kind == Kind.DATA:
                    return payload
        finally:
            writer.close()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    server = Guarded(tmp_path)
    running = asyncio.create_task(server.run())
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                break
        await asyncio.sleep(0.02)
    yield server
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_scheduler_is_let_in(guarded: Guarded) -> None:
    assert await guarded.call(name="mica-scheduler") == 200


async def test_the_scheduler_is_answered_over_http2(guarded: Guarded) -> None:
    assert await guarded.call_http2(name="mica-scheduler") == b"POST /filter"


async def test_a_client_of_another_name_is_not_answered_over_http2(guarded: Guarded) -> None:
    with pytest.raises((asyncio.IncompleteReadError, OSError)):
        await guarded.call_http2(name="somebody")


@pytest.mark.parametrize("name", [None, "somebody", "mica-scheduler.evil"])
async def test_a_client_of_another_name_or_none_is_not(guarded: Guarded, name: str | None) -> None:
    with pytest.raises((aiohttp.ClientError, OSError)):
        await guarded.call(name=name)


async def test_a_client_of_another_authority_is_not(guarded: Guarded) -> None:
    with pytest.raises((aiohttp.ClientError, OSError)):
        await guarded.call(name="mica-scheduler", authority=trustme.CA())
