"""One request on its way: pick an engine, send, relay the answer, and try again where nothing was answered yet.

What is retried: a connection that could not be made (elsewhere); a reused connection that died before the first byte (fresh, same
engine: keep-alive connections may be closed by the engine at any time); a fresh one that died before the first byte, when the
request may be repeated (elsewhere). After the first byte nothing is retried and nothing is hidden: the client's connection is
cut, so that half an answer never looks like a whole one.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from mica_router.core import errors
from mica_router.core.dispatch import Forward
from mica_router.core.engines import Endpoint
from mica_router.core.errors import ApiError
from mica_router.core.headers import render_request_head, render_response_head
from mica_router.core.request import Request
from mica_router.core.response import ResponseHead, ResponseReader
from mica_router.core.target import is_repeatable
from mica_router.relay.context import RelayContext
from mica_router.relay.upstream import UpstreamConnection
from mica_runtime.logging import get_logger

CLIENT_GONE = 499
CUT = 599
_log = get_logger(__name__)
_MAX_TRIES = 3


class ResponseSink(Protocol):
    """The client's side of an exchange."""

    def write(self, data: bytes) -> None:
        """Response bytes, in order."""

    def exchange_answered(self) -> None:
        """The engine answers: the request will not be sent again and is no longer kept."""

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The response is complete."""

    def exchange_failed(self, error: ApiError) -> None:
        """Nothing was written; answer with this."""

    def exchange_broken(self) -> None:
        """Part of a response was written and the rest will not come."""


class Exchange:
    """Owned by the client connection: `start` once, then `pause`, `resume`, `check`, `cancel` from there."""

    def __init__(self, context: RelayContext, client: ResponseSink, *, request: Request, forward: Forward) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._path = forward.path
        self._target = forward.target
        self._body = forward.body
        self._route = forward.route
        self._model = forward.route.public_name
        self._tried: frozenset[Endpoint] = frozenset()
        self._occupied: Endpoint | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connection: UpstreamConnection | None = None
        self._reused = False
        self._reader = ResponseReader()
        self._heard = False
        self._head: ResponseHead | None = None
        self._keep_alive = False
        self._stalled = False
        self._in_engine = False
        self._started = 0.0
        self._deadline = math.inf

    def start(self) -> None:
        """Pick an engine and send."""
        self._started = self._context.clock()
        self._context.load.enter_queue(self._route.service.key)
        self._attempt()

    def pause(self) -> None:
        """The client does not keep up."""
        self._stalled = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client reads again."""
        self._stalled = False
        self._deadline = self._context.clock() + self._context.timeouts.idle
        if self._connection is not None:
            self._connection.resume()

    def check(self, now: float) -> None:
        """End the exchange if its deadline has passed."""
        if now < self._deadline:
            return
        if self._head is None:
            _log.warning("engine sent nothing in time", model=self._model, engine=self._engine())
            self._context.metrics.upstream_error(self._model, "first_byte_timeout")
            self._fail(errors.engine_timeout(self._model, self._context.timeouts.first_byte))
        else:
            self._break("client_stalled" if self._stalled else "idle_timeout")

    def cancel(self) -> None:
        """The client is gone: the engine must notice."""
        self._release()
        self._context.metrics.request_done(self._model, CLIENT_GONE)

    # Finding an engine.

    def _attempt(self) -> None:
        context = self._context
        route = context.table.current(self._route)
        endpoint = None
        if route is not None and len(self._tried) < _MAX_TRIES:
            endpoint = context.load.pick(route, tried=self._tried)
        if endpoint is None:
            refusal = errors.engine_unreachable if self._tried else errors.no_ready_engine
            self._fail(refusal(self._model, retry_after=context.retry_after))
            return
        self._occupied = endpoint
        context.load.occupy(endpoint)
        connection = context.pool.take(endpoint)
        if connection is None:
            self._connect(endpoint)
        else:
            self._send(connection, reused=True)

    def _connect(self, endpoint: Endpoint) -> None:
        self._deadline = math.inf
        self._connecting = asyncio.get_running_loop().create_task(self._connect_and_send(endpoint))

    async def _connect_and_send(self, endpoint: Endpoint) -> None:
        context = self._context
        try:
            connection = await context.pool.connect(endpoint, deadline=context.timeouts.connect)
        except (OSError, TimeoutError, UnicodeError) as error:
            self._connecting = None
            context.load.suspect(endpoint)
            _log.warning("engine cannot be reached", model=self._model, engine=endpoint.authority, error=repr(error))
            context.metrics.upstream_error(self._model, "connect")
            self._try_elsewhere(endpoint, "connect")
            return
        self._connecting = None
        context.load.sound(endpoint)
        self._send(connection, reused=False)

    def _try_elsewhere(self, endpoint: Endpoint, reason: str) -> None:
        self._tried |= {endpoint}
        self._vacate()
        route = self._context.table.current(self._route)
        if route is not None and any(other not in self._tried for other in route.service.endpoints):
            self._context.metrics.retried(self._model, reason)
        self._attempt()

    def _send(self, connection: UpstreamConnection, *, reused: bool) -> None:
        request = self._request
        connection.user = self
        self._connection = connection
        self._reused = reused
        self._reader = ResponseReader(head_request=request.method == b"HEAD")
        if not self._in_engine:
            self._in_engine = True
            self._context.load.leave_queue(self._route.service.key)
            self._context.load.enter_engine(self._route.service.key)
        head = render_request_head(
            method=request.method,
            target=self._target,
            authority=connection.endpoint.authority,
            forwarded=request.forwarded,
            body_length=len(self._body),
            http10=request.http10,
        )
        self._deadline = self._context.clock() + self._context.timeouts.first_byte
        connection.send(head, self._body)

    # What the engine says.

    def upstream_data(self, data: bytes) -> None:
        """Relay what the engine sent."""
        self._heard = True
        reader = self._reader
        out = reader.feed(data)
        if reader.broken:
            self._engine_misbehaved()
            return
        if self._head is None:
            if reader.head is None:
                return
            if self._request.http10 and reader.head.chunked:
                self._engine_misbehaved()
                return
            out = self._accept_head(reader.head) + out
        self._deadline = self._context.clock() + self._context.timeouts.idle
        if out:
            self._client.write(out)
        if reader.complete:
            self._finish()

    def _accept_head(self, head: ResponseHead) -> bytes:
        context = self._context
        self._head = head
        self._body = b""
        self._client.exchange_answered()
        context.metrics.first_byte(self._model, context.clock() - self._started)
        self._keep_alive = self._request.keep_alive and not self._request.http10 and not head.until_eof and not context.draining
        return render_response_head(status_line=head.status_line, headers=head.headers, close=not self._keep_alive)

    def _finish(self) -> None:
        connection, head = self._connection, self._head
        self._connection = None
        if connection is not None:
            if head is not None and head.reusable:
                self._context.pool.give(connection)
            else:
                connection.abort()
        self._release()
        self._context.metrics.request_done(self._model, head.status if head is not None else 502)
        self._client.exchange_done(keep_alive=self._keep_alive)

    def upstream_lost(self, error: Exception | None) -> None:
        """The engine's connection ended: a proper end, a retry, or an error. A reset ends nothing properly."""
        connection, self._connection = self._connection, None
        if error is None and self._reader.finish():
            self._finish()
        elif self._head is not None:
            self._break("truncated" if error is None else "reset")
        elif self._heard or connection is None:
            self._engine_misbehaved()
        elif self._reused:
            self._context.metrics.retried(self._model, "stale_connection")
            self._connect(connection.endpoint)
        else:
            self._context.metrics.upstream_error(self._model, "disconnected")
            self._lost_before_answer(connection.endpoint)

    def _lost_before_answer(self, endpoint: Endpoint) -> None:
        if is_repeatable(self._request.method, self._path):
            self._try_elsewhere(endpoint, "disconnected")
        else:
            self._fail(errors.engine_unreachable(self._model, retry_after=self._context.retry_after))

    # Ends.

    def _engine_misbehaved(self) -> None:
        if self._head is not None:
            self._break("protocol")
            return
        _log.warning("engine answered with something that is not HTTP", model=self._model, engine=self._engine())
        self._context.metrics.upstream_error(self._model, "protocol")
        self._fail(errors.engine_protocol_error(self._model))

    def _break(self, reason: str) -> None:
        _log.warning("response cut", model=self._model, engine=self._engine(), reason=reason)
        self._context.metrics.upstream_error(self._model, reason)
        self._context.metrics.request_done(self._model, CUT)
        self._release()
        self._client.exchange_broken()

    def _fail(self, error: ApiError) -> None:
        self._release()
        self._context.metrics.request_done(self._model, error.status)
        self._client.exchange_failed(error)

    def _engine(self) -> str | None:
        return self._occupied.authority if self._occupied is not None else None

    def _vacate(self) -> None:
        if self._occupied is not None:
            self._context.load.vacate(self._occupied)
            self._occupied = None

    def _release(self) -> None:
        """Give back whatever is held. Every way out passes here once."""
        self._deadline = math.inf
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._vacate()
        key = self._route.service.key
        if self._in_engine:
            self._context.load.leave_engine(key)
        else:
            self._context.load.leave_queue(key)
