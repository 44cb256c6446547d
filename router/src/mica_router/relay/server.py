"""The listening socket of the data path, its periodic sweep, and its drain."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from mica_router.core.request import forget_heads
from mica_router.core.routes import RouteTable
from mica_router.relay.connection import ClientConnection
from mica_router.relay.context import RelayContext
from mica_runtime.logging import get_logger

_SWEEP_SECONDS = 0.25
_log = get_logger(__name__)


class RelayServer:
    """Accepts clients. Deadlines are checked by one sweep for all connections instead of a timer per request."""

    def __init__(self, context: RelayContext) -> None:
        self._context = context
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        assert self._server is not None, "start first"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(
        self, *, host: str, port: int, backlog: int = 4096, shared: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen. `shared`: other workers listen on the same port. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self._context), host, port, backlog=backlog, reuse_port=shared or None, ssl=tls
        )
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep_and_rearm)

    def publish(self, table: RouteTable) -> None:
        """Use this table from the next request on."""
        context = self._context
        context.table = table
        forget_heads()
        context.pool.keep_only(table.endpoints())
        context.load.keep_only(table)
        context.metrics.keep_only(table.public_names())
        if context.load.waiting:
            context.load.waiting.release_step()

    def sweep(self) -> None:
        """Check every deadline once."""
        now = self._context.clock()
        load = self._context.load
        load.health.refresh()
        if load.waiting:
            load.waiting.release_step()
        for connection in list(self._context.connections):
            self._check(connection, now)
        self._context.pool.sweep()

    def _check(self, connection: ClientConnection, now: float) -> None:
        try:
            connection.check(now)
        except Exception:
            _log.exception("a connection could not be checked and is dropped")
            connection.abort()

    def _sweep_and_rearm(self) -> None:
        # Armed first: what goes wrong with one connection must not end the deadlines of all.
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep_and_rearm)
        self.sweep()

    async def drain(self, *, seconds: float) -> int:
        """Accept nothing new, let responses end for `seconds`, then cut. Returns how many connections were cut."""
        context = self._context
        context.draining = True
        context.note_connections()
        if self._server is not None:
            self._server.close()
        for connection in list(context.connections):
            connection.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await context.emptied.wait()
        left = list(context.connections)
        for connection in left:
            connection.stop()
        if left:
            await asyncio.sleep(0.05)  # for the last words of streams to leave
        for connection in list(context.connections):
            connection.abort()
        context.pool.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.sleep(0)
        return len(left)
