"""Reading an engine's response: where its head ends and when it is complete, while its body passes through as it came.

Sans-I/O. Whole chunks are told by `core.chunks`; anything else in a chunked body is followed by llhttp, which is started when it
is needed first. The bytes themselves are never touched. Anything after the end of a response is a fault of the engine: the
connection is not used again and the surplus is not forwarded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import httptools

from mica_router.core.chunks import LAST, whole_chunks
from mica_router.core.headers import Header, render_response_head
from mica_router.core.known_responses import KnownResponse, KnownResponses

_MAX_HEAD = 64 * 1024
_NO_BODY = frozenset({204, 304})
# What a parser is told that begins in the middle of a body, at the end of a chunk.
_CHUNKS_FOLLOW: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_KNOWN: Final = KnownResponses()
_find_known: Final = _KNOWN.find


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What the engine said before the body.

    `until_eof`: only the end of the connection ends the body. `events`: it is SSE. `passed_on`: the head for a client whose
    connection goes on.
    """

    status: int
    status_line: bytes
    headers: list[Header]
    chunked: bool
    until_eof: bool
    reusable: bool
    events: bool = False
    passed_on: bytes = b""


class ResponseReader:
    """One response on one connection. Make a new one per request.

    `between`: the body is of chunks, and every chunk that began has ended. `coded`: the transfer coding that made it `broken`.
    """

    __slots__ = (
        "_buffer",
        "_chunked",
        "_closed",
        "_head_request",
        "_headers",
        "_keep_alive",
        "_left",
        "_messages",
        "_opened",
        "_parser",
        "between",
        "broken",
        "coded",
        "complete",
        "head",
        "on_chunk_complete",
        "on_chunk_header",
    )

    def __init__(self, *, head_request: bool = False) -> None:
        self._head_request = head_request
        self._parser: Any = None
        self._buffer = b""
        self._left = 0
        self.head: ResponseHead | None = None
        self.between = False
        self.complete = False
        self.broken = False
        self.coded: bytes | None = None

    def _start_parser(self) -> None:
        # llhttp calls these at every chunk: bound to C functions, they cost next to nothing. See `_parse_body`.
        self._opened, self._closed = count(), count()
        self.on_chunk_header, self.on_chunk_complete = self._opened.__next__, self._closed.__next__
        self._headers: list[Header] = []
        self._keep_alive = False
        self._messages = 0
        self._chunked = True
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Body bytes to forward, unchanged. `head`, `complete` and `broken` say what happened on the way."""
        if self.head is not None:
            return self._follow(data)
        if self._parser is None and not self._head_request:
            # A head that was seen before, with something behind it.
            end = data.find(b"\r\n\r\n") + 4
            known = _find_known(data[:end])
            if known is not None and len(data) > end:
                self.head, length = known
                if length is None:
                    self.between = True
                else:
                    self._left = length
                return self._follow(data[end:])
        rest = self._read_head(data)
        return self._follow(rest) if rest else b""

    def _follow(self, data: bytes) -> bytes:
        """Follow the framing of body bytes; they are forwarded unless something is wrong with them."""
        if self.broken or self.complete:
            self.broken = True
        elif self.between and (found := whole_chunks(data)):
            self.complete = found == LAST
        elif self._parser is not None or self.between:
            self._parse_body(data)
        else:
            self._left = left = self._left - len(data)
            self.complete = left == 0
            self.broken = left < 0
        return b"" if self.broken else data

    def _parse_body(self, data: bytes) -> None:
        if self._parser is None:
            self._start_parser()
            self._parse(_CHUNKS_FOLLOW)
        self._parse(data)
        # Asking advances both counters, which keeps their difference. A line's end, because a chunk's size could be half read.
        self.between = data.endswith(b"\r\n") and self._chunked and next(self._opened) == next(self._closed)

    def finish(self) -> bool:
        """The connection ended. True when that is a proper end of the response."""
        if self.head is not None and self.head.until_eof and not self.broken:
            self.complete = True
        return self.complete

    def _read_head(self, data: bytes) -> bytes:
        """Collect the head; returns what came behind it. Interim responses (1xx) are swallowed."""
        if self._parser is None:
            self._start_parser()
        self._buffer += data
        while not self.broken:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                self.broken = len(self._buffer) > _MAX_HEAD
                return b""
            raw, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
            self._headers = []
            status = self._parse(raw)
            if status is None or status == 101 or status < 100:
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
        codings = [value for name, value in self._headers if name.lower() == b"transfer-encoding"]
        coding = b", ".join(codings).strip().lower()
        if codings and coding != b"chunked":
            # Nobody asked for another one (TE ends at this hop), and no client could read it.
            self.broken, self.coded = True, coding
            return
        framed = coding == b"chunked" or (not coding and b"content-length" in lowered)
        self.complete = self.complete or bodyless
        self._chunked = self.between = coding == b"chunked" and not bodyless
        until_eof = not framed and not bodyless
        status_line = b"HTTP/1.1" + raw[: raw.index(b"\r\n")][8:]
        self.head = ResponseHead(
            status=status,
            status_line=status_line,
            headers=self._headers,
            chunked=bool(coding),
            until_eof=until_eof,
            reusable=self._keep_alive and not until_eof and not self._head_request,
            events=(
                lowered.get(b"content-type", b"")[:17].lower() == b"text/event-stream" and b"content-encoding" not in lowered
            ),
            passed_on=render_response_head(status_line=status_line, headers=self._headers, close=False),
        )
        if framed and not self.complete and not self._head_request:
            _KNOWN.keep(raw, KnownResponse(self.head, None if coding else int(lowered[b"content-length"])))

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
