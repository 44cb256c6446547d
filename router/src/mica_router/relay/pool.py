"""Keep-alive connections to engines, most recently used first."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Set

from mica_router.core.engines import Endpoint
from mica_router.ports import Clock
from mica_router.relay.upstream import UpstreamConnection


class Pool:
    """Idle connections per endpoint.

    `max_idle` connections are kept per endpoint for `idle_seconds`, which is below what common engines allow (5 s), so that most
    connections end from our side; the rest is what the retry of a reused connection is for.
    """

    def __init__(
        self, *, clock: Clock, max_idle: int = 128, idle_seconds: float = 4.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._clock = clock
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._tls = tls
        self._idle: dict[Endpoint, list[UpstreamConnection]] = {}

    def take(self, endpoint: Endpoint) -> UpstreamConnection | None:
        """A connection that was used before, or None."""
        idle = self._idle.get(endpoint)
        while idle:
            connection = idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                return connection
        return None

    async def connect(self, endpoint: Endpoint, *, deadline: float) -> UpstreamConnection:
        """A fresh connection. Raises OSError, or TimeoutError after `deadline` seconds."""
        loop = asyncio.get_running_loop()
        connection = UpstreamConnection(endpoint)
        try:
            async with asyncio.timeout(deadline):
                await loop.create_connection(lambda: connection, endpoint.host, endpoint.port, ssl=self._tls_for(endpoint))
        except BaseException:
            connection.abort()  # also one that is established in the moment in which it is given up
            raise
        return connection

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        """Certificates are always verified. The default context is made when the first engine needs it: it takes 20 ms."""
        if not endpoint.tls:
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def give(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose response is complete."""
        connection.user = connection.short_way = None
        if connection.paused:
            connection.resume()
        idle = self._idle.get(connection.endpoint)
        if idle is None:
            idle = self._idle[connection.endpoint] = []
        transport = connection.transport
        if transport is None or transport.is_closing() or len(idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since = self._clock()
        idle.append(connection)

    def sweep(self) -> None:
        """Close what was idle for too long."""
        oldest = self._clock() - self._idle_seconds
        for endpoint, idle in list(self._idle.items()):
            kept = [connection for connection in idle if connection.usable and connection.idle_since > oldest]
            stale = [connection for connection in idle if connection.idle_since <= oldest]
            self._idle[endpoint] = kept
            if not kept:
                del self._idle[endpoint]
            for connection in stale:
                connection.abort()

    def keep_only(self, endpoints: Set[Endpoint]) -> None:
        """Close idle connections to endpoints that are gone."""
        for endpoint in [endpoint for endpoint in self._idle if endpoint not in endpoints]:
            for connection in self._idle.pop(endpoint):
                connection.abort()

    def close(self) -> None:
        """Close every idle connection."""
        self.keep_only(frozenset())

    def idle_count(self, endpoint: Endpoint) -> int:
        """How many idle connections this endpoint has."""
        return len(self._idle.get(endpoint, ()))
