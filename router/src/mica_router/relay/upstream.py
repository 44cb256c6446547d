"""One connection to an engine: hands what arrives to the exchange that uses it, and nothing more."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from mica_router.core.engines import Endpoint
from mica_router.hot import Line


class UpstreamUser(Protocol):
    """Whoever borrowed the connection."""

    def upstream_data(self, data: bytes) -> None:
        """Bytes of the engine."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection ended, or broke if there is an `error`; it will not be returned to the pool."""


class UpstreamConnection(Line, asyncio.Protocol):
    """Idle while `user` is None. An engine that talks or hangs up while idle is disconnected.

    `short_way` is tried first with what arrives; when it says False, it is given up and the user gets that read.
    """

    __slots__ = ("_unwanted", "endpoint", "idle_since", "paused", "transport", "user")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.user: UpstreamUser | None = None
        self.short_way = None
        self.idle_since = 0.0
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self._unwanted = False

    @property
    def usable(self) -> bool:
        """Whether a request can be written to it."""
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The engine accepted."""
        # A cast, because uvloop's transports implement the interface without inheriting from it.
        self.transport = cast("asyncio.Transport", transport)
        if self._unwanted:
            self.transport.abort()

    def long_way(self, data: bytes) -> None:
        """Bytes of the engine that the short way did not take."""
        if self.user is None:
            self.abort()
        else:
            self.user.upstream_data(data)

    def eof_received(self) -> bool:
        """The engine will say no more: close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer."""
        self.transport = None
        self.short_way = None
        user, self.user = self.user, None
        if user is not None:
            user.upstream_lost(exc)

    def send(self, head: bytes, body: bytes) -> None:
        """Write one request."""
        if self.transport is not None:
            self.transport.write(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                self.transport.write(body)

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        if self.transport is not None and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.paused:
            self.paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once; the engine sees that its work is not wanted."""
        self.user = self.short_way = None
        self._unwanted = True
        if self.transport is not None:
            self.transport.abort()
