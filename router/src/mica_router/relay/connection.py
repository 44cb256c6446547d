"""One client connection: reads requests, answers or starts exchanges one at a time, keeps the deadlines of the client's side."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Final, cast

from mica_router.core import errors
from mica_router.core.dispatch import Answer, dispatch
from mica_router.core.errors import ApiError, render_error, render_json
from mica_router.core.features import Features
from mica_router.core.request import Phase, Request, RequestReader
from mica_router.hot import Outlet
from mica_router.metrics import NO_MODEL
from mica_router.relay.context import RelayContext
from mica_router.relay.exchange import Exchange
from mica_runtime.logging import get_logger

_IDLE: Final = Phase.IDLE
_LINGER_SECONDS = 1.0
_log = get_logger(__name__)
_NO_LINGER = struct.pack("ii", 1, 0)


class ClientConnection(asyncio.Protocol):
    """Back-pressure: a client that does not read pauses the engine; one that sends ahead is not read from.
    What it holds of the process's budget: the request that is read, those that wait, and the one that is served until the engine
    answers.

    A half-closed connection counts as closed: its request is cancelled.
    """

    def __init__(self, context: RelayContext) -> None:
        self._context = context
        self._reader = RequestReader(context.limits)
        self._waiting: deque[Request] = deque()
        self._budget = context.budget
        self._held = 0
        self._waiting_bytes = 0
        self._served_bytes = 0
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport | None = None
        self._phase = _IDLE
        self._deadline = 0.0
        self._current: Request | None = None
        self._closing = False
        self._write_paused = False
        self._read_paused = False
        self._outlet: Outlet | None = None

    # Transport callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; it has the head deadline to say something."""
        # A cast, because uvloop's transports implement the interface without inheriting from it.
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = self._context.clock() + self._context.timeouts.head
        self._context.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._closing:
            return
        reader = self._reader
        requests = reader.feed(data)
        if (
            len(requests) == 1
            and reader.phase is _IDLE
            and reader.failure is None
            and self._exchange is None
            and not self._waiting
            and not self._write_paused
            and not self._read_paused
        ):
            # Nearly always: one whole request, for a connection that has nothing else to do.
            self._phase = _IDLE
            self._take(requests[0])
            if self._exchange is None:
                self._advance()
            return
        for request in requests:
            self._waiting.append(request)
            self._waiting_bytes += request.size
        if self._reader.phase is not _IDLE:
            self._account()
            if self._context.budget.exceeded:
                self._reader.give_up(self._overloaded(close=True))
                self._account()
        self._watch_phase(progressed=bool(requests))
        self._advance()

    def eof_received(self) -> bool:
        """Half-closed counts as closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; the engine must not go on working for it."""
        self._transport = self._outlet = None
        self._closing = True
        self._context.connections.discard(self)
        self._context.note_connections()
        self._waiting.clear()
        self._budget.held -= self._held
        self._held = 0
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def pause_writing(self) -> None:
        """The client reads too slowly: hold the engine back."""
        self._write_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._write_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._advance()

    # Serving.

    def _advance(self) -> None:
        """Serve what is waiting, then say what has to be said to a client between two requests."""
        while self._waiting and not self._busy():
            request = self._waiting.popleft()
            self._waiting_bytes -= request.size
            self._take(request)
        self._limit_reading()
        if self._busy() or self._waiting:
            return
        failure = self._reader.failure
        if failure is not None:
            self._refuse(failure, model=NO_MODEL)
        elif self._context.draining and self._reader.phase is _IDLE:
            self._close()
        elif self._reader.wants_continue:
            self._reader.wants_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take(self, request: Request) -> None:
        self._served_bytes = request.size
        self._account()
        try:
            self._serve(request)
        except Exception:
            _log.exception("a request could not be served")
            self._crash(request)

    def _busy(self) -> bool:
        return self._exchange is not None or self._closing or self._write_paused

    def _serve(self, request: Request) -> None:
        context = self._context
        decision = dispatch(request, context.table)
        request = self._current = request.without_body()
        if isinstance(decision, Features):
            if context.budget.exceeded:
                self._refuse(self._overloaded(close=False), model=decision.route.public_name)
                return
            self._exchange = exchange = Exchange(context, self, request=request, features=decision)
            exchange.start()
        elif isinstance(decision, Answer):
            self._context.metrics.request_done(NO_MODEL, 200)
            keep_alive = self._may_keep_alive(request)
            head_only = request.method == b"HEAD"
            self.write(render_json(200, decision.body, close=not keep_alive, head_only=head_only))
            self._end_response(keep_alive=keep_alive)
        else:
            self._refuse(decision, model=NO_MODEL)

    def _crash(self, request: Request) -> None:
        """A fault of ours: say so, and serve what comes next."""
        if self._exchange is not None:
            self._exchange.crash()
        elif not self._closing:
            self._current = request
            self._refuse(errors.internal_error(), model=NO_MODEL)

    def _may_keep_alive(self, request: Request) -> bool:
        return request.keep_alive and not request.http10 and not self._context.draining

    def _account(self) -> None:
        reader = self._reader
        held = self._waiting_bytes + self._served_bytes
        if reader.phase is not _IDLE:
            held += reader.buffered
        self._budget.held += held - self._held
        self._held = held

    def _let_go(self) -> None:
        """The request that is served is held no longer."""
        if self._served_bytes:
            self._served_bytes = 0
            self._account()

    def _overloaded(self, *, close: bool) -> ApiError:
        return errors.overloaded(self._context.budget.limit, retry_after=self._context.retry_after, close=close)

    def _refuse(self, error: ApiError, *, model: str) -> None:
        self._context.metrics.request_done(model, error.status)
        self._answer_error(error)

    def _answer_error(self, error: ApiError) -> None:
        request, self._current = self._current, None
        keep_alive = request is not None and self._may_keep_alive(request) and not error.close
        head_only = request is not None and request.method == b"HEAD"
        self.write(render_error(error, close=not keep_alive, head_only=head_only))
        if error.close:
            self._linger()
        else:
            self._end_response(keep_alive=keep_alive)

    def _end_response(self, *, keep_alive: bool) -> None:
        self._current = None
        self._let_go()
        if not keep_alive:
            self._close()
        elif self._reader.phase is _IDLE:
            context = self._context
            self._deadline = context.clock() + context.timeouts.keep_alive

    # What an exchange reports (`ResponseSink`).

    def write(self, data: bytes) -> None:
        """Send response bytes."""
        if self._transport is not None:
            self._transport.write(data)

    def outlet(self) -> Outlet:
        """The transport's own `write` while there is one: whoever has it is told when there is none (`Exchange.cancel`)."""
        if self._outlet is None:
            transport = self._transport
            if transport is None:
                return Outlet(self.write, -1, bool, int)
            sock = None if transport.get_extra_info("sslcontext") else transport.get_extra_info("socket")
            file = -1 if sock is None else sock.fileno()
            self._outlet = Outlet(transport.write, file, transport.is_closing, transport.get_write_buffer_size)
        return self._outlet

    def exchange_answered(self) -> None:
        """The request is not kept any longer."""
        self._let_go()

    def exchange_done(self, *, keep_alive: bool) -> None:
        """A response was relayed whole."""
        self._exchange = None
        self._end_response(keep_alive=keep_alive)
        self._advance_soon()

    def exchange_failed(self, error: ApiError) -> None:
        """No engine answered: send the error."""
        self._exchange = None
        self._answer_error(error)
        self._advance_soon()

    def exchange_broken(self) -> None:
        """Half a response was relayed: cut, so that it cannot pass for a whole one."""
        self._exchange = None
        self._reset_on_close()
        self.abort()

    def _advance_soon(self) -> None:
        """Go on from the event loop when there is something to go on with, so that pipelines do not recurse."""
        if self._waiting or self._reader.failure or self._reader.wants_continue or self._context.draining:
            asyncio.get_running_loop().call_soon(self._advance)

    # Deadlines, called by the server's sweep.

    def check(self, now: float) -> None:
        """Act on a deadline that has passed at `now`."""
        if self._exchange is not None:
            self._exchange.check(now)
        elif now < self._deadline:
            return
        elif self._closing or self._write_paused:
            self.abort()
        elif self._reader.phase is _IDLE:
            self._close()
        elif self._reader.phase is Phase.HEAD:
            self._refuse(errors.request_timeout("request head", self._context.timeouts.head), model=NO_MODEL)
        else:
            self._refuse(errors.request_timeout("request body", self._context.timeouts.body), model=NO_MODEL)

    def _watch_phase(self, *, progressed: bool) -> None:
        """A deadline starts when its phase starts; bytes that trickle in do not move it."""
        phase = self._reader.phase
        if phase is self._phase and not progressed:
            return
        self._phase = phase
        timeouts = self._context.timeouts
        started = timeouts.head if phase is Phase.HEAD else timeouts.body
        self._deadline = self._context.clock() + (timeouts.keep_alive if phase is _IDLE else started)

    def _limit_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._read_paused and self._waiting:
            self._read_paused = True
            transport.pause_reading()
        elif self._read_paused and not self._waiting:
            self._read_paused = False
            transport.resume_reading()

    # Ends.

    def drain(self) -> None:
        """Close now if nothing is under way; otherwise after the response that is."""
        if self._exchange is None and not self._waiting and self._reader.phase is _IDLE:
            self._close()

    def stop(self) -> None:
        """The drain is over: a stream that still runs is told so, anything else is dropped."""
        if self._exchange is None or not self._exchange.stop():
            self.abort()

    def _close(self) -> None:
        """Flush, then close."""
        self._closing = True
        self._deadline = self._context.clock() + self._context.timeouts.idle
        if self._transport is not None:
            self._transport.close()

    def _linger(self) -> None:
        """Close after an answer that came before the end of the request.

        Closing with unread input would reset the connection and could destroy the answer on its way; so the client is told
        that nothing more comes, and what it still sends is read and dropped for a moment.
        """
        self._closing = True
        self._deadline = self._context.clock() + _LINGER_SECONDS
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def _reset_on_close(self) -> None:
        """A mere end of the connection is how some answers end: one that is cut must not look like that."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    def abort(self) -> None:
        """Drop the connection at once, and with a reset if an answer is under way."""
        self._closing = True
        if self._exchange is not None:
            self._reset_on_close()
        # Nothing may be written to it any more, also not by an engine that speaks before this connection's end is told.
        transport, self._transport = self._transport, None
        self._outlet = None
        if transport is not None:
            transport.abort()
