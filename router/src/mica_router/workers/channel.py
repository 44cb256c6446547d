"""What supervisor and workers say to each other, over a socket pair that only they have."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import msgspec

from mica_router.core.engines import Endpoint
from mica_router.core.routes import RouteTable, Service, ServiceKey, build_table
from mica_router.exposition import Snapshot
from mica_router.ports import Counted

_LENGTH = 4


class Table(msgspec.Struct, tag=True):
    """To a worker: the services of a new table, and the board's rows of their engines and of their lines."""

    services: list[Service]
    rows: list[tuple[Endpoint, int]]
    lines: list[tuple[ServiceKey, int]] = []

    @property
    def board(self) -> dict[Counted, int]:
        """All rows."""
        return {**dict(self.rows), **dict(self.lines)}


class Probed(msgspec.Struct, tag=True):
    """To a worker: what a probe found."""

    endpoint: Endpoint
    alive: bool


class Ejected(msgspec.Struct, tag=True):
    """From the worker that took an engine out after a fault, and to all others."""

    endpoint: Endpoint
    reason: str


class Listening(msgspec.Struct, tag=True):
    """From a worker: it accepts clients."""


class Numbers(msgspec.Struct, tag=True):
    """From a worker: its numbers, and the engines that it has taken out."""

    snapshot: Snapshot
    ejected: list[Endpoint]


Message = Table | Probed | Ejected | Listening | Numbers
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def table_message(table: RouteTable, rows: Mapping[Counted, int]) -> Table:
    """A table as a message."""
    return Table(
        services=[route.service for route in table.by_key.values()],
        rows=[(counted, row) for counted, row in rows.items() if isinstance(counted, Endpoint)],
        lines=[(counted, row) for counted, row in rows.items() if isinstance(counted, ServiceKey)],
    )


def table_of(message: Table) -> RouteTable:
    """The same table again: naming depends on the services alone."""
    return build_table(message.services)


class Channel:
    """One end. Messages keep their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """On a connected stream socket, which it owns from now on."""
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**24)
        return cls(reader, writer)

    def send(self, message: Message) -> None:
        """Never waits: who does not read is ended by its supervisor, or has lost it."""
        if not self._writer.is_closing():
            content = _encode(message)
            self._writer.write(len(content).to_bytes(_LENGTH, "big") + content)

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
            return _decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """End it."""
        self._writer.close()
