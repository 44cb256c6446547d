"""Whole server-sent events out of a body that passes through: at any moment the client has seen whole events and nothing else.

So an error event, a comment or another engine's continuation may follow wherever an engine dies. A read that ends where a chunk
and an event end, as nearly every read does, passes unchanged and unparsed. Any other switches to collecting the payload: whole
events go out in chunks of our own and the rest waits, until both ends fall together again.
"""

from __future__ import annotations

from typing import Final

import httptools

from mica_router.core.chunks import EVENT_END, ONE_BYTE
from mica_router.core.response import ResponseReader

END_OF_CHUNKS: Final = b"0\r\n\r\n"
LONGEST_EVENT: Final = 4 * 1024 * 1024
_SYNTHETIC_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """One chunk; nothing for nothing, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def end_of_last_event(payload: bytes | bytearray) -> int:
    """Length of the whole events at the start of `payload`, whether lines end with LF or CRLF."""
    return max(payload.rfind(b"\n\n") + 2, payload.rfind(b"\n\r\n") + 3, 2) if b"\n\n" in payload or b"\n\r\n" in payload else 0


class Dechunker:
    """Payload of a chunked body, from a chunk boundary on."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(_SYNTHETIC_HEAD)

    def feed(self, data: bytes) -> bytes:
        """Payload in these bytes. Raises httptools.HttpParserError; a `ResponseReader` saw them first, so it does not happen."""
        self._parser.feed_data(data)
        payload = b"".join(self._parts)
        self._parts.clear()
        return payload


class WholeEvents:
    """Follows one body of events.

    `chunked`: as the engine frames it; `frames`: whether the client's body is of chunks. `torn` is set while part of an event
    that is too long to wait for was given out: then nothing may follow but its rest.
    """

    __slots__ = ("_chunked", "_dechunker", "_frames", "_rest", "torn")

    def __init__(self, *, chunked: bool, frames: bool) -> None:
        self._chunked = chunked
        self._frames = frames
        self._dechunker: Dechunker | None = None
        self._rest = bytearray()
        self.torn = False

    @property
    def passing(self) -> bool:
        """Whether whole chunks of whole events will pass unchanged."""
        return self._dechunker is None and self._chunked and self._frames

    def feed(self, data: bytes, reader: ResponseReader) -> bytes:
        """What the client gets now. `reader` has seen `data`, and nothing after it."""
        if self._dechunker is None and self._chunked and self._frames:
            if reader.complete or (reader.between and data.endswith(EVENT_END) and not data.endswith(ONE_BYTE)):
                return data
            self._dechunker = Dechunker()
        return self._collect(data, reader)

    def _collect(self, data: bytes, reader: ResponseReader) -> bytes:
        if self._chunked and self._dechunker is None:
            self._dechunker = Dechunker()
        rest = self._rest
        rest += data if self._dechunker is None else self._dechunker.feed(data)
        if reader.complete:
            return self._frame(bytes(rest)) + self._end()
        whole = end_of_last_event(rest)
        self.torn = not whole and (self.torn or len(rest) > LONGEST_EVENT)
        if self.torn:
            whole = len(rest)
        payload = bytes(rest[:whole])
        del rest[:whole]
        if not rest and not self.torn and self._frames and self._chunked and reader.between:
            self._dechunker = None
        return self._frame(payload)

    def finish(self, reader: ResponseReader) -> bytes:
        """What is left when the body ended: all of it has been said, unless the end of the connection was its end."""
        head = reader.head
        return self._frame(bytes(self._rest)) + self._end() if head is not None and head.until_eof else b""

    def _end(self) -> bytes:
        return END_OF_CHUNKS if self._frames else b""

    def _frame(self, payload: bytes) -> bytes:
        return chunk(payload) if self._frames else payload
