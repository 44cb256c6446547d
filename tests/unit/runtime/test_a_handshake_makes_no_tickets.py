"""TLS of the served ports: Go's clients never resume a session, so nothing is spent on resuming."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import trustme

from mica_runtime.http import TlsFiles, serve


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_a_client_gets_its_answer_and_no_session_ticket(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    (tmp_path / "tls.crt").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    (tmp_path / "tls.key").write_bytes(issued.private_key_pem.bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listening = asyncio.Event()
    server = asyncio.create_task(
        serve(hello, host="127.0.0.1", port=port, tls=TlsFiles(tmp_path, client_ca=False), on_listening=listening.set)
    )
    await listening.wait()
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    session = writer.get_extra_info("ssl_object").session
    writer.close()
    await writer.wait_closed()
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
    assert answer.endswith(b"\r\n\r\nok")
    assert not session.has_ticket
