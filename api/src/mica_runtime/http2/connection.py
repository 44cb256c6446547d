"""One HTTP/2 connection of a server: requests with small answers, many at once, on the loop's own thread.

For a client that is known and trusted, such as a Go program on loopback: what it sends is checked and bounded, but no work is
spent on outwitting it. HTTP/1.1 is uvicorn's. Here because Go's HTTP/1.1 client keeps two idle connections: whoever has more
requests under way pays a TLS handshake for each, more than an answer costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol, cast

from mica_runtime.http2 import frames
from mica_runtime.http2.frames import DEFAULT_FRAME, DEFAULT_WINDOW, HEAD_SIZE, MAX_WINDOW, PREFACE, Broken, Code, Kind, Setting
from mica_runtime.http2.hpack import Decoder, Headers, HpackError, answer_block
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
MAX_STREAMS: Final = 32
"""Requests under way on one connection; clients open another one for more. Each may have a body of the limit in memory."""
MAX_FRAME: Final = 2**16
MAX_BLOCK: Final = 2**16
_MAX_HEADERS: Final = 2**14
_BLOCKS_KEPT: Final = 1024
_CREDIT_EVERY: Final = 2**26
_SETTINGS: Final = frames.settings(
    {
        # Without a table equal headers are equal bytes, which are read once.
        Setting.HEADER_TABLE_SIZE: 0,
        Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: MAX_WINDOW,
        Setting.MAX_FRAME_SIZE: MAX_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
    }
) + frames.window_update(0, MAX_WINDOW - DEFAULT_WINDOW)


class Reply(NamedTuple):
    """An answer."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"


Respond = Callable[[str, str, bytes | None], Awaitable[Reply]]
"""Answers method, path and body; the body is None when it was larger than the limit. An exception is status 500."""

AtOnce = Callable[[str, str, bytes], Reply | None]
"""The same where nothing has to be waited for, without a task; None: ask ``Respond``."""


def never_at_once(method: str, path: str, body: bytes) -> Reply | None:
    """All requests are answered by a task."""
    return None


class Peers(Protocol):
    """Where open connections are kept: a set."""

    def add(self, item: Any, /) -> None:
        """A connection is open."""
        ...

    def discard(self, item: Any, /) -> None:
        """It is closed."""
        ...


class _Stream:
    """One request and its answer. ``parts`` is None once the body is too large; ``window`` is what may be sent."""

    __slots__ = ("id", "method", "parts", "path", "pending", "size", "window")

    def __init__(self, number: int, method: str, path: str, window: int) -> None:
        self.id = number
        self.method = method
        self.path = path
        self.parts: list[bytes] | None = []
        self.size = 0
        self.window = window
        self.pending = b""


class Http2Protocol(asyncio.Protocol):
    """Protocol of one connection. ``peers`` holds it while it is open; ``shutdown`` ends it once all is answered."""

    def __init__(self, respond: Respond, at_once: AtOnce = never_at_once, *, body_limit: int, peers: Peers) -> None:
        self._respond = respond
        self._at_once = at_once
        self._limit = body_limit
        self._peers = peers
        self._decoder = Decoder()
        self._known: dict[bytes, tuple[str, str]] = {}
        self._buffer = b""
        self._greeted = False
        self._block: tuple[int, int, bytes] | None = None
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen = 0
        self._last = 0
        self._taken = 0
        self._window = DEFAULT_WINDOW
        self._first_window = DEFAULT_WINDOW
        self._frame_size = DEFAULT_FRAME
        self._ending = False
        self._transport: asyncio.Transport | None = None
        self._acts: dict[int, Callable[[int, int, bytes], None]] = {
            Kind.DATA: self._data,
            Kind.HEADERS: self._headers,
            Kind.RST_STREAM: self._reset,
            Kind.SETTINGS: self._settings,
            Kind.PING: self._ping,
            Kind.WINDOW_UPDATE: self._more_window,
            Kind.CONTINUATION: self._continuation,
            Kind.PUSH_PROMISE: self._push,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our settings."""
        self._transport = cast("asyncio.Transport", transport)
        self._peers.add(self)
        self._write(_SETTINGS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Requests that are under way go on; nobody hears their answers."""
        self._transport = None
        self._streams.clear()
        self._peers.discard(self)

    def shutdown(self) -> None:
        """Take no more requests, and close once those under way are answered."""
        if not self._ending:
            self._ending = True
            self._write(frames.goaway(self._last, Code.NO_ERROR))
        self._close_if_done()

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer."""
        try:
            self._read(self._buffer + data if self._buffer else data)
        except Broken as broken:
            _log.warning("HTTP/2 connection ended", code=broken.code.name, problem=str(broken))
            self._write(frames.goaway(self._last, broken.code))
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    def _read(self, buffer: bytes) -> None:
        at = 0
        if not self._greeted:
            if not buffer.startswith(PREFACE[: len(buffer)]):
                raise Broken(Code.PROTOCOL_ERROR, "not HTTP/2")
            if len(buffer) < len(PREFACE):
                self._buffer = buffer
                return
            self._greeted, at = True, len(PREFACE)
        while self._transport is not None and len(buffer) - at >= HEAD_SIZE:
            size, kind, flags, stream = frames.head(buffer, at)
            if size > MAX_FRAME:
                raise Broken(Code.FRAME_SIZE_ERROR, f"frame of {size} bytes")
            end = at + HEAD_SIZE + size
            if end > len(buffer):
                break
            if self._block is not None and kind != Kind.CONTINUATION:
                raise Broken(Code.PROTOCOL_ERROR, "headers were interrupted")
            act = self._acts.get(kind)
            if act is not None:
                act(flags, stream, buffer[at + HEAD_SIZE : end])
            at = end
        self._buffer = buffer[at:]

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = frames.without_padding(flags, payload)
        if flags & frames.PRIORITY:
            block = block[5:]
        self._block = (stream, flags & frames.END_STREAM, block)
        if flags & frames.END_HEADERS:
            self._begin()

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise Broken(Code.PROTOCOL_ERROR, "headers go on that never began")
        number, ends, block = self._block
        if len(block) + len(payload) > MAX_BLOCK:
            raise Broken(Code.ENHANCE_YOUR_CALM, "headers are too large")
        self._block = (number, ends, block + payload)
        if flags & frames.END_HEADERS:
            self._begin()

    def _begin(self) -> None:
        """All headers of a request are there, or its trailers."""
        assert self._block is not None
        (number, ends, block), self._block = self._block, None
        method, path = self._read_block(block)
        known = self._streams.get(number)
        if known is None and number <= self._seen:
            return  # trailers of a request that was answered or given up
        if known is None:
            known = self._open(number, method, path)
        if known is not None and ends:
            self._answer(known)

    def _open(self, number: int, method: str, path: str) -> _Stream | None:
        if number % 2 == 0:
            raise Broken(Code.PROTOCOL_ERROR, f"client's stream with number {number}")
        self._seen = number
        if self._ending:
            return None
        self._last = number
        if len(self._streams) >= MAX_STREAMS or len(self._tasks) >= MAX_STREAMS:
            self._write(frames.reset(number, Code.REFUSED_STREAM))
            return None
        stream = self._streams[number] = _Stream(number, method, path, self._first_window)
        return stream

    def _read_block(self, block: bytes) -> tuple[str, str]:
        """Method and path. Every block is read in its order, also one that nobody asks for: the peer's table depends on it."""
        known = self._known.get(block)
        if known is not None:
            return known
        stateless = self._decoder.stateless
        try:
            found = _method_and_path(self._decoder.decode(block))
        except HpackError as error:
            raise Broken(Code.COMPRESSION_ERROR, str(error)) from error
        if not self._decoder.stateless or len(self._known) >= _BLOCKS_KEPT:
            self._known.clear()
        if stateless and self._decoder.stateless:
            self._known[block] = found
        return found

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream > self._seen or not stream:
            raise Broken(Code.PROTOCOL_ERROR, "body of a request that never began")
        self._taken += len(payload)
        if self._taken >= _CREDIT_EVERY:
            self._write(frames.window_update(0, self._taken))
            self._taken = 0
        known = self._streams.get(stream)
        if known is None:
            return
        part = frames.without_padding(flags, payload)
        known.size += len(part)
        if known.size > self._limit:
            known.parts = None
        if known.parts is not None:
            known.parts.append(part)
        if flags & frames.END_STREAM:
            self._answer(known)

    def _answer(self, stream: _Stream) -> None:
        parts, stream.parts = stream.parts, []
        body = None if parts is None else parts[0] if len(parts) == 1 else b"".join(parts)
        if body is not None:
            try:
                reply = self._at_once(stream.method, stream.path, body)
            except Exception:
                reply = self._failed(stream)
            if reply is not None:
                self._reply(stream, reply)
                self._close_if_done()
                return
        task = asyncio.get_running_loop().create_task(self._run(stream, body))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._close_if_done()

    async def _run(self, stream: _Stream, body: bytes | None) -> None:
        try:
            reply = await self._respond(stream.method, stream.path, body)
        except Exception:
            reply = self._failed(stream)
        self._reply(stream, reply)

    def _failed(self, stream: _Stream) -> Reply:
        _log.exception("request failed", path=stream.path)
        return Reply(b"internal error\n", 500, b"text/plain")

    def _reply(self, stream: _Stream, reply: Reply) -> None:
        if stream.id not in self._streams:
            return
        block = answer_block(reply.status, reply.content_type, len(reply.body))
        headers = frames.frame(Kind.HEADERS, frames.END_HEADERS, stream.id, block)
        size = len(reply.body)
        if size <= min(self._frame_size, self._window, stream.window):
            self._window -= size
            del self._streams[stream.id]
            self._write(headers + frames.frame(Kind.DATA, frames.END_STREAM, stream.id, reply.body))
            return
        self._write(headers)
        stream.pending = reply.body
        self._send(stream)

    def _send(self, stream: _Stream) -> None:
        """As much of an answer as the peer takes now."""
        parts: list[bytes] = []
        while stream.pending:
            size = min(len(stream.pending), self._frame_size, self._window, stream.window)
            if size <= 0:
                break
            part, stream.pending = stream.pending[:size], stream.pending[size:]
            self._window -= size
            stream.window -= size
            parts.append(frames.frame(Kind.DATA, 0 if stream.pending else frames.END_STREAM, stream.id, part))
        if parts:
            self._write(b"".join(parts))
        if not stream.pending:
            del self._streams[stream.id]

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        for setting, value in frames.read_settings(payload):
            if setting == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, f"window of {value}")
                for known in self._streams.values():
                    known.window += value - self._first_window
                self._first_window = value
            elif setting == Setting.MAX_FRAME_SIZE:
                self._frame_size = min(max(value, DEFAULT_FRAME), MAX_FRAME)
        self._write(frames.frame(Kind.SETTINGS, frames.ACK, 0))
        self._send_waiting()

    def _more_window(self, flags: int, stream: int, payload: bytes) -> None:
        more = frames.word(payload)
        if not stream:
            self._window += more
            if self._window > MAX_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, "window of the connection is too large")
        elif stream in self._streams:
            self._streams[stream].window += more
        self._send_waiting()

    def _send_waiting(self) -> None:
        for stream in [stream for stream in self._streams.values() if stream.pending]:
            self._send(stream)
        self._close_if_done()

    def _reset(self, flags: int, stream: int, payload: bytes) -> None:
        self._streams.pop(stream, None)
        self._close_if_done()

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._write(frames.frame(Kind.PING, frames.ACK, 0, payload))

    def _push(self, flags: int, stream: int, payload: bytes) -> None:
        raise Broken(Code.PROTOCOL_ERROR, "clients do not push")

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close_if_done(self) -> None:
        if self._ending and not self._streams and not self._tasks and self._transport is not None:
            self._transport.close()


def _method_and_path(headers: Headers) -> tuple[str, str]:
    found = dict(headers)
    return found.get(b":method", b"").decode("latin-1"), found.get(b":path", b"").partition(b"?")[0].decode("latin-1")
