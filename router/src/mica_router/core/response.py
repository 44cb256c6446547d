"""Reading an engine's response: where its head ends and when it is complete, while its body passes through as it came.

Sans-I/O. llhttp follows the framing (in C, without a callback per event); the bytes themselves are never touched. Anything after
the end of a response is a fault of the engine: the connection is not used again and the surplus is not forwarded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import httptools

from mica_router.core.headers import Header

_MAX_HEAD = 64 * 1024
_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What the engine said before the body. `until_eof`: only the end of the connection ends the body. `events`: it is SSE."""

    status: int
    status_line: bytes
    headers: list[Header]
    chunked: bool
    until_eof: bool
    reusable: bool
    events: bool = False


class ResponseReader:
    """One response on one connection. Make a new one per request."""

    def __init__(self, *, head_request: bool = False) -> None:
        self._head_request = head_request
        # llhttp calls these at every chunk: bound to C functions, they cost next to nothing. See `between_chunks`.
        self._opened, self._closed = count(), count()
        self.on_chunk_header, self.on_chunk_complete = self._opened.__next__, self._closed.__next__
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = b""
        self._headers: list[Header] = []
        self._keep_alive = False
        self._messages = 0
        self.head: ResponseHead | None = None
        self.complete = False
        self.broken = False

    def feed(self, data: bytes) -> bytes:
        """Body bytes to forward, unchanged. `head`, `complete` and `broken` say what happened on the way."""
        if self.head is not None:
            return self._follow(data)
        rest = self._read_head(data)
        return self._follow(rest) if rest else b""

    def _follow(self, data: bytes) -> bytes:
        """Let the parser see body bytes; they are forwarded unless something is wrong with them."""
        self.broken = self.broken or self.complete
        if not self.broken:
            self._parse(data)
        return b"" if self.broken else data

    def between_chunks(self) -> bool:
        """Whether every chunk that began has ended. Asking advances both counters, which keeps their difference."""
        return next(self._opened) == next(self._closed)

    def finish(self) -> bool:
        """The connection ended. True when that is a proper end of the response."""
        if self.head is not None and self.head.until_eof and not self.broken:
            self.complete = True
        return self.complete

    def _read_head(self, data: bytes) -> bytes:
        """Collect the head; returns what came behind it. Interim responses (1xx) are swallowed."""
        self._buffer += data
        while not self.broken:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                self.broken = len(self._buffer) > _MAX_HEAD
                return b""
            raw, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
            self._headers = []
            status = self._parse(raw)
            if status is None or status == 101:
                self.broken = True
                return b""
            if status >= 200:
                self._accept(raw, status)
                rest, self._buffer = self._buffer, b""
                return rest
            self._messages, self.complete = 0, False
        return b""

    def _accept(self, raw: bytes, status: int) -> None:
        lowered = {name.lower(): value for name, value in self._headers}
        bodyless = self._head_request or status in _NO_BODY
        coding = lowered.get(b"transfer-encoding", b"").lower().rpartition(b",")[2].strip()
        framed = coding == b"chunked" or (not coding and b"content-length" in lowered)
        self.complete = self.complete or bodyless
        until_eof = not framed and not bodyless
        self.head = ResponseHead(
            status=status,
            status_line=b"HTTP/1.1" + raw[: raw.index(b"\r\n")][8:],
            headers=self._headers,
            chunked=bool(coding),
            until_eof=until_eof,
            reusable=self._keep_alive and not until_eof and not self._head_request,
            events=(
                lowered.get(b"content-type", b"")[:17].lower() == b"text/event-stream"
                and coding in (b"", b"chunked")
                and b"," not in lowered.get(b"transfer-encoding", b"")
                and b"content-encoding" not in lowered
            ),
        )

    def _parse(self, data: bytes) -> int | None:
        """Feed the parser. Returns the status code as far as it is known, None when this is no valid response."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.broken = True
        return None if self.broken else self._parser.get_status_code()

    # Callbacks of httptools. There is none for bodies: they are not looked at.

    def on_message_begin(self) -> None:
        """A second message without a second request is a fault."""
        self._messages += 1
        if self._messages > 1:
            self.broken = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the head; trailers pass through with the body."""
        if self.head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """llhttp can tell only now whether the connection may be kept."""
        self._keep_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """The framing says that the response has ended."""
        self.complete = True
