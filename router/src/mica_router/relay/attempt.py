"""One try of a request at one engine: connect, send, read the answer, and say how it went.

A reused connection that dies before the first byte is replaced by a fresh one once, because engines close idle connections at any
time. Not here: which engine, what a failure means for the request, and what the client gets (`relay.exchange`).
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from mica_router.core.engines import Engine
from mica_router.core.response import ResponseHead, ResponseReader
from mica_router.relay.context import Deadlines, RelayContext
from mica_router.relay.upstream import UpstreamConnection
from mica_runtime.logging import get_logger

_log = get_logger(__name__)


class Parcel(NamedTuple):
    """What is sent: rendered head and body. `head_request`: the answer has no body."""

    head: bytes
    body: bytes
    head_request: bool = False


_SENT: Final = Parcel(b"", b"")
# What this process or its host lacks for another connection: no engine is at fault.
_OWN_LACK: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class AttemptOwner(Protocol):
    """The exchange. Inside a callback it may abort the attempt."""

    def attempt_sent(self, attempt: Attempt) -> None:
        """The request was written to a connection."""

    def attempt_reconnects(self, attempt: Attempt) -> None:
        """A reused connection was stale; a fresh one is made."""

    def attempt_answered(self, attempt: Attempt, head: ResponseHead) -> None:
        """The head of the answer is there."""

    def attempt_said(self, attempt: Attempt, data: bytes) -> None:
        """Body bytes as they came; right after the head, perhaps none."""

    def attempt_whole(self, attempt: Attempt, head: ResponseHead, body: bytes) -> bool:
        """A complete answer came at once. False: tell it by the three calls for its parts."""

    def attempt_ended(self, attempt: Attempt) -> None:
        """The answer is complete."""

    def attempt_failed(self, attempt: Attempt, reason: str) -> None:
        """It will say no more. `answered` tells whether before or after the head."""


class Attempt:
    """Counts as in flight at its engine from its making until `end`. `placed`: it is counted there already."""

    __slots__ = (
        "_connecting",
        "_connection",
        "_context",
        "_deadlines",
        "_heard",
        "_owner",
        "_parcel",
        "_reused",
        "answered",
        "deadline",
        "engine",
        "reader",
        "sent",
        "started",
    )

    def __init__(
        self,
        context: RelayContext,
        owner: AttemptOwner,
        engine: Engine,
        *,
        parcel: Parcel,
        deadlines: Deadlines,
        placed: bool = False,
    ) -> None:
        self._context = context
        self._owner: AttemptOwner | None = owner
        self._parcel = parcel
        self._deadlines = deadlines
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._reused = False
        self._heard = False
        self.engine = engine
        self.reader = ResponseReader(head_request=parcel.head_request)
        self.answered = False
        self.started = self.sent = context.clock()
        self.deadline = math.inf
        if not placed:
            context.load.occupy(engine.endpoint)

    def start(self) -> None:
        """Send, on a connection that is there or on a fresh one."""
        connection = self._context.pool.take(self.engine.endpoint)
        if connection is None:
            self._connect()
        else:
            self._send(connection, reused=True)

    def _connect(self) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._connect_and_send())

    async def _connect_and_send(self) -> None:
        context, endpoint = self._context, self.engine.endpoint
        try:
            connection = await context.pool.connect(endpoint, deadline=self._deadlines.connect)
        except Exception as error:
            # Whatever it is (also a name or a port that cannot be one, or a fault of the loop), the client waits for an answer.
            self._connecting = None
            _log.warning("engine cannot be reached", engine=endpoint.authority, error=repr(error))
            self._fail("exhausted" if isinstance(error, OSError) and error.errno in _OWN_LACK else "connect")
            return
        self._connecting = None
        if connection.usable:
            self._send(connection, reused=False)
        else:
            # Accepted and hung up on at once: nobody was there to be told that it ended.
            connection.abort()
            self._fail("disconnected")

    def _send(self, connection: UpstreamConnection, *, reused: bool) -> None:
        connection.user = self
        self._connection = connection
        self._reused = reused
        # On a connection that was there this is the moment in which the attempt was made.
        self.sent = self.started if reused else self._context.clock()
        self.deadline = self.sent + self._deadlines.first_byte
        connection.send(self._parcel.head, self._parcel.body)
        if self._owner is not None:
            self._owner.attempt_sent(self)

    # The connection's user.

    def upstream_data(self, data: bytes) -> None:
        """Follow the framing and pass the body on."""
        reader, owner = self.reader, self._owner
        if owner is None:
            return
        self._heard = True
        out = reader.feed(data)
        if reader.broken:
            self._fail("protocol" if reader.coded is None else "transfer_coding")
            return
        if not self.answered and reader.complete and reader.head is not None and owner.attempt_whole(self, reader.head, out):
            return
        self.deadline = self._context.clock() + self._deadlines.idle
        if not self.answered:
            if reader.head is None:
                return
            self.answered = True
            self._parcel = _SENT
            owner.attempt_answered(self, reader.head)
            if self._owner is None:
                return
        owner.attempt_said(self, out)
        if reader.complete and self._owner is not None:
            self._complete(owner)

    def upstream_lost(self, error: Exception | None) -> None:
        """A proper end, a stale connection, or a failure. A reset ends nothing properly."""
        self._connection = None
        owner = self._owner
        if owner is None:
            return
        if error is None and self.reader.finish():
            self._complete(owner)
        elif self.answered:
            self._fail("truncated" if error is None else "reset")
        elif self._heard:
            self._fail("protocol")
        elif self._reused:
            owner.attempt_reconnects(self)
            self.deadline = math.inf
            self._connect()
        else:
            self._fail("disconnected")

    # Ends.

    @property
    def over(self) -> bool:
        """Whether it will say no more."""
        return self._owner is None

    def shorten(self, way: Callable[[bytes], bool]) -> None:
        """Reads may take this short way, until it says that one cannot. `check` has to be told when something was heard on it."""
        if self._connection is not None:
            self._connection.short_way = way

    def check(self, now: float, *, heard: float = 0.0) -> None:
        """Fail if the deadline has passed. `heard`: when the engine said something last, perhaps later than is known here."""
        if now >= self.deadline and (not self.answered or now >= heard + self._deadlines.idle):
            self._fail("idle_timeout" if self.answered else "first_byte_timeout")

    def _complete(self, owner: AttemptOwner) -> None:
        self.finish()
        owner.attempt_ended(self)

    def finish(self) -> None:
        """The answer is complete: the connection may be used again."""
        connection, self._connection = self._connection, None
        head = self.reader.head
        if connection is not None:
            if head is not None and head.reusable:
                self._context.pool.give(connection)
            else:
                connection.abort()
        self.end()

    def _fail(self, reason: str) -> None:
        owner = self._owner
        self.end()
        if owner is not None:
            owner.attempt_failed(self, reason)

    def end(self) -> None:
        """Give back whatever is held; an engine that still works sees that its work is not wanted. Any number of times."""
        if self._owner is None:
            return
        self._owner = None
        self.deadline = math.inf
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._context.load.vacate(self.engine.endpoint)

    # Back-pressure.

    def pause(self) -> None:
        """The client does not keep up."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client reads again."""
        self.deadline = self._context.clock() + self._deadlines.idle if self.answered else self.deadline
        if self._connection is not None:
            self._connection.resume()
