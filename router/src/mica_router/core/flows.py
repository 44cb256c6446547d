"""How an engine's answer becomes the client's: as it is, made of an adapted answer, or told inside a stream that has begun.

Sans-I/O: body bytes of the engine in, bytes for the client's connection out. Streams of events pass through `core.events`.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from mica_router.core.continuation import TranslatedHead, Translator
from mica_router.core.errors import NAMED_EVENT
from mica_router.core.events import END_OF_CHUNKS, Dechunker, chunk
from mica_router.core.headers import render_own_head
from mica_router.core.response import ResponseReader

DONE_EVENT: Final = b"data: [DONE]\n\n"


class Flow(Protocol):
    """One answer on its way. `feed` is called for every read, then `finish` once if the answer ended properly."""

    def feed(self, data: bytes, reader: ResponseReader) -> bytes:
        """Bytes for the client. `reader` has seen `data`, and nothing after it."""

    def finish(self, reader: ResponseReader) -> bytes:
        """The last bytes for the client."""


class Unchanged:
    """Every byte as it came, transfer coding included."""

    def feed(self, data: bytes, reader: ResponseReader) -> bytes:
        """The same bytes."""
        return data

    def finish(self, reader: ResponseReader) -> bytes:
        """Nothing."""
        return b""


UNCHANGED: Final = Unchanged()


class Translated:
    """Through a `Translator`. `opened` tells whether the client has a head; `frames`: its body is of chunks."""

    def __init__(self, translator: Translator, *, chunked: bool, opened: bool, frames: bool, close: bool) -> None:
        self._translator = translator
        self._dechunker = Dechunker() if chunked else None
        self.opened = opened
        self._frames = frames
        self._close = close

    def open(self, head: TranslatedHead | None) -> bytes:
        """The client's head, if it is known."""
        if head is None or self.opened:
            return b""
        self.opened = True
        self._frames = self._frames and head.length is None
        return render_own_head(head.status, head.headers, length=head.length, chunked=self._frames, close=self._close)

    def feed(self, data: bytes, reader: ResponseReader) -> bytes:
        """Raises TranslationFailed."""
        return self._out(self._translator.feed(data if self._dechunker is None else self._dechunker.feed(data)))

    def finish(self, reader: ResponseReader) -> bytes:
        """Raises TranslationFailed."""
        out = self._out(self._translator.finish())
        return out + END_OF_CHUNKS if self._frames else out

    def _out(self, payload: bytes) -> bytes:
        head = b"" if self.opened else self.open(self._translator.late_head())
        return head + (chunk(payload) if self._frames else payload)


class LateAnswer:
    """A whole answer that arrives after the client was given the head of a stream: told as one event, then the end.

    `named`: an error is told as an event of that name.
    """

    def __init__(self, *, chunked: bool, frames: bool, named: bool) -> None:
        self._dechunker = Dechunker() if chunked else None
        self._frames = frames
        self._named = named
        self._payload = bytearray()

    def feed(self, data: bytes, reader: ResponseReader) -> bytes:
        """Nothing yet."""
        if len(self._payload) < _LONGEST_ANSWER:
            self._payload += data if self._dechunker is None else self._dechunker.feed(data)
        return b""

    def finish(self, reader: ResponseReader) -> bytes:
        """The answer as one event, on one line, whatever its layout was."""
        try:
            content = msgspec.json.encode(msgspec.json.decode(bytes(self._payload)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            content = _UNREADABLE
        status = reader.head.status if reader.head is not None else 502
        if status >= 400 and b'"error"' not in content:
            content = b'{"error":%b}' % content
        name = NAMED_EVENT if self._named and status >= 400 else b""
        events = b"%bdata: %b\n\n%b" % (name, content, DONE_EVENT)
        return chunk(events) + END_OF_CHUNKS if self._frames else events


_LONGEST_ANSWER: Final = 1024 * 1024
_UNREADABLE: Final = (
    b'{"error":{"message":"The engine answered with something that is not JSON.","type":"server_error","param":null,'
    b'"code":"engine_protocol_error"}}'
)
