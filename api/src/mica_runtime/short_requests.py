"""Short requests to the API server over kept HTTP/1.1 connections, at a fifth of what a general client costs.

For the one write of every decision. Not for lists and watches, redirects, proxies or compressed answers: that is aiohttp's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

AT_ONCE: Final = 32
IDLE_S: Final = 15.0
"""A connection that was idle for longer may have been forgotten by something on the way, which nobody would tell us."""
MAX_ANSWER: Final = 2**22


class NoAnswer(Exception):
    """The connection failed, or what came was no answer; whether the request was carried out is unknown."""


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send one request; status and body of its answer. Raises NoAnswer. After a cancellation the connection is of no use."""
        if self._transport is None:
            raise NoAnswer("connection is closed")
        self._parts, self._size = [], 0
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing will come any more."""
        self._transport = None
        self._fail(f"connection ended: {exc!r}")

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not an answer: {error}")
            self.abort()

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._size += len(body)
        if self._size <= MAX_ANSWER:
            self._parts.append(body)
        else:
            self._fail(f"the answer is larger than {MAX_ANSWER} bytes")
            self.abort()

    def on_message_complete(self) -> None:
        """The answer is there."""
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.abort()
        if status >= 200 and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((status, b"".join(self._parts)))

    def _fail(self, message: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NoAnswer(message))


class ShortRequests:
    """Requests to one server, each with a deadline. ``context`` is None for plain HTTP."""

    def __init__(self, server: str, context: ssl.SSLContext | None) -> None:
        parts = urlsplit(server)
        self._host = parts.hostname or ""
        self._context = context if parts.scheme == "https" else None
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._fixed = f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
        self._idle: list[_Connection] = []
        self._room = asyncio.Semaphore(AT_ONCE)

    async def request(
        self, method: str, target: str, *, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> tuple[int, bytes]:
        """Status and body of the answer. Raises NoAnswer, OSError, or TimeoutError after ``deadline`` seconds in all."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"{method} {self._prefix}{target} HTTP/1.1\r\n{self._fixed}{lines}Content-Length: {len(body)}\r\n\r\n"
        async with asyncio.timeout(deadline), self._room:
            connection = self._kept() or await self._connect()
            try:
                answer = await connection.ask(start.encode("latin-1") + body)
            except BaseException:
                # Whoever gives up closes the connection, so that nothing of the request is delivered later.
                connection.abort()
                raise
        if connection.usable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.pop().abort()

    def _kept(self) -> _Connection | None:
        """The connection that was used last; those that were idle for too long are closed."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        name = self._host if self._context is not None else None
        _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._context, server_hostname=name)
        return connection
