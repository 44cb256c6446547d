"""Small whole requests to engines beside the relay: probes, scrapes, and what resume has to ask. Through the pool, bounded."""

from __future__ import annotations

import asyncio

from mica_router.core.continuation import Reply
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.events import Dechunker
from mica_router.core.headers import carries_length, render_request_opening, with_length
from mica_router.core.response import ResponseReader
from mica_router.relay.pool import Pool
from mica_router.relay.upstream import UpstreamConnection

_LONGEST_REPLY = 8 * 1024 * 1024


class SideCallError(OSError):
    """The engine did not answer with a whole HTTP response."""


class _Call:
    """User of one connection until its answer is whole."""

    def __init__(self, *, head_request: bool = False) -> None:
        self._reader = ResponseReader(head_request=head_request)
        self._body = bytearray()
        self.done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    @property
    def reusable(self) -> bool:
        """Whether the connection may be used again."""
        return self._reader.head is not None and self._reader.head.reusable

    def upstream_data(self, data: bytes) -> None:
        """Collect the answer."""
        self._body += self._reader.feed(data)
        if self._reader.broken or len(self._body) > _LONGEST_REPLY:
            self._fail("the answer is not HTTP, or too large")
        elif self._reader.complete:
            self._finish()

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection's end may be the answer's."""
        if error is None and self._reader.finish():
            self._finish()
        else:
            self._fail("the connection ended before the answer did")

    def _finish(self) -> None:
        head = self._reader.head
        if head is not None and not self.done.done():
            body = bytes(self._body)
            self.done.set_result(Reply(head.status, Dechunker().feed(body) if head.chunked else body))

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(SideCallError(why))


class SideCalls:
    """Makes the calls. Connections come from the pool and go back to it."""

    def __init__(self, pool: Pool, *, seconds: float = 5.0) -> None:
        self._pool = pool
        self._seconds = seconds

    async def call(self, engine: Engine, path: str, body: bytes) -> Reply:
        """POST a JSON body. Raises OSError or TimeoutError."""
        return await self._request(engine.endpoint, b"POST", path, body, seconds=self._seconds)

    async def get(self, endpoint: Endpoint, path: str, *, seconds: float | None = None) -> Reply:
        """GET. Raises OSError or TimeoutError."""
        return await self._request(endpoint, b"GET", path, b"", seconds=self._seconds if seconds is None else seconds)

    async def _request(self, endpoint: Endpoint, method: bytes, path: str, body: bytes, *, seconds: float) -> Reply:
        forwarded = b"Content-Type: application/json\r\n" if body else b""
        opening = render_request_opening(method=method, target=path.encode(), authority=endpoint.authority, forwarded=forwarded)
        head = with_length(opening, len(body), always=carries_length(method))
        async with asyncio.timeout(seconds):
            connection = self._pool.take(endpoint)
            if connection is not None:
                try:
                    return await self._over(connection, head, body)
                except SideCallError:
                    pass  # engines may close idle connections at any time
            fresh = await self._pool.connect(endpoint, deadline=seconds)
            if not fresh.usable:
                fresh.abort()
                raise SideCallError("the engine hung up at once")
            return await self._over(fresh, head, body)

    async def _over(self, connection: UpstreamConnection, head: bytes, body: bytes) -> Reply:
        call = _Call()
        connection.user = call
        try:
            connection.send(head, body)
            reply = await call.done
        except BaseException:
            connection.abort()
            raise
        if call.reusable:
            self._pool.give(connection)
        else:
            connection.abort()
        return reply
