"""Reading requests: bytes in, whole requests or one refusal out. No I/O, no clock.

Framing is checked by llhttp (through httptools) in its strict mode: Transfer-Encoding beside Content-Length, repeated or
odd Content-Length, folded headers, bare LF and space before a colon are refused, which is what request smuggling needs. On
top of that this module bounds head and body and refuses what a proxy must not pass on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import httptools

from mica_router.core import errors
from mica_router.core.errors import ApiError
from mica_router.core.headers import Header, connection_tokens, first_of_each
from mica_router.core.known_heads import KnownHead, KnownHeads
from mica_router.core.plans import HeadNotes


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Bounds in bytes. `head` covers request line and headers, and trailers as well."""

    head: int = 64 * 1024
    body: int = 32 * 1024 * 1024


class Request(NamedTuple):
    """One request, whole. `body` is free of transfer coding; `size` counts head and body.

    `lookup` has the first header of each name (lower case). It and `headers` may be shared between requests: they are never
    changed. `notes` is shared by all requests of a head that is known.
    """

    method: bytes
    target: bytes
    headers: list[Header]
    lookup: Mapping[bytes, bytes]
    body: bytes
    keep_alive: bool
    http10: bool
    size: int
    notes: HeadNotes | None = None

    def without_body(self) -> Request:
        """The same request for those who need only its head, so that the body lives no longer than it is needed."""
        if not self.body:
            return self
        notes = self.notes
        return notes.bare if notes is not None and notes.bare is not None else self._replace(body=b"")


class Phase(Enum):
    """What the reader waits for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


_BODY_TOKENS: Final = (b"content-length", b"transfer-encoding")
_KNOWN: Final = KnownHeads()
_find_known: Final = _KNOWN.find
forget_heads: Final = _KNOWN.forget
_IDLE: Final = Phase.IDLE
# What a named tuple's own constructor comes to, at half of its cost.
_new: Final = tuple.__new__


class RequestReader:
    """Sans-I/O reader of one connection. After `failure` is set it takes no more bytes."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._done: list[Request] = []
        self._head_fed = 0
        self._began = False
        self.phase = Phase.IDLE
        self.failure: ApiError | None = None
        self.wants_continue = False
        self._reset()

    def _reset(self) -> None:
        self._target: list[bytes] = []
        self._headers: list[Header] = []
        self._head_size = 0
        # One buffer and no list of parts: a body may come in parts of a byte, each of which would cost fifty.
        self._body = bytearray()
        self._keep_alive = True
        self._http10 = False

    @property
    def buffered(self) -> int:
        """Bytes of the request that is not whole yet."""
        return 0 if self.phase is Phase.IDLE else self._head_size + len(self._body)

    def give_up(self, error: ApiError) -> None:
        """Take no more bytes, and let go of what was read of the current request."""
        self._fail(error)

    def feed(self, data: bytes) -> list[Request]:
        """Requests completed by these bytes, in order. Sets `failure` when what follows cannot be used."""
        if self.failure is not None:
            return []
        between_messages = self.phase is _IDLE
        end = 0
        if between_messages:
            end = data.find(b"\r\n\r\n") + 4
            known = _find_known(data[:end])
            if known is not None and len(data) == end + known.length and self._allows(known):
                method, target, headers, lookup, _, keep_alive, http10, size, notes = known.request
                fields = (method, target, headers, lookup, data[end:], keep_alive, http10, size, notes)
                return [_new(Request, fields)]
        self._parse(data)
        if self.phase is Phase.HEAD:
            self._head_fed += 0 if self._began and not between_messages else len(data)
            if self._head_fed > self._limits.head:
                self._fail(errors.head_too_large(self._limits.head))
        self._began = False
        done, self._done = self._done, []
        if len(done) == 1 and between_messages and self.phase is Phase.IDLE:
            self._remember(data[:end], done[0], whole=len(data) - end == len(done[0].body))
        return done

    def _allows(self, known: KnownHead) -> bool:
        """Whether this connection goes on, and whether its limits, which may be others than those it was read with, allow it."""
        return self._keep_alive and known.size <= self._limits.head and known.length <= self._limits.body

    def _remember(self, head: bytes, request: Request, *, whole: bool) -> None:
        """Keep the head of a request that came at once, if a repetition can be told by its bytes alone."""
        names = {name.lower() for name, _ in request.headers}
        framed = b"content-length" in names and not names & {b"transfer-encoding", b"upgrade", b"expect"}
        if whole and framed and request.keep_alive and not request.http10 and self.failure is None:
            length = len(request.body)
            notes = request.notes or HeadNotes()
            notes.bare = request._replace(body=b"", notes=notes)
            _KNOWN.keep(head, KnownHead(notes.bare, request.size - length, length))

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self.failure is None:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(self._decline_upgrade() + bytes(rest[upgrade.args[0] :]))
            except httptools.HttpParserError as error:
                self._fail(errors.malformed_http(str(error)))

    def _decline_upgrade(self) -> bytes:
        """Some clients offer h2c with every request. A server may ignore the offer; llhttp stops at it, before the body.

        Returns the same head without the offer, to be read instead.
        """
        self._parser = httptools.HttpRequestParser(self)
        if self.failure is not None or not self._done:
            return b""
        offered = self._done.pop()
        lines = [b"%s: %s\r\n" % header for header in offered.headers if header[0].lower() != b"upgrade"]
        version = 0 if offered.http10 else 1
        return b"%s %s HTTP/1.%d\r\n%s\r\n" % (offered.method, offered.target, version, b"".join(lines))

    def _fail(self, error: ApiError) -> None:
        if self.failure is None:
            self.failure = error
            self._body = bytearray()

    # Callbacks of httptools, in the order of a message.

    def on_message_begin(self) -> None:
        """A new message starts."""
        self._reset()
        self.phase = Phase.HEAD
        self._head_fed = 0
        self._began = True
        self.wants_continue = False

    def on_url(self, url: bytes) -> None:
        """Part of the request target."""
        self._target.append(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer after the body."""
        self._count_head(len(name) + len(value) + 4)
        if self.failure is None and self.phase is Phase.HEAD:
            self._headers.append((name, value))

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limits.head:
            self._fail(errors.head_too_large(self._limits.head))

    def on_headers_complete(self) -> None:
        """The head is known: refuse what a proxy must not pass on."""
        self.phase = Phase.BODY
        self._keep_alive = self._parser.should_keep_alive()
        version = self._parser.get_http_version()
        self._http10 = version == "1.0"
        if version not in ("1.0", "1.1"):
            self._fail(errors.malformed_http("the version must be HTTP/1.1 or HTTP/1.0"))
        if self._parser.get_method() == b"CONNECT":
            self._fail(errors.malformed_http("CONNECT is not supported"))
        names = [name.lower() for name, _ in self._headers]
        if self._http10 and b"transfer-encoding" in names:
            self._fail(errors.malformed_http("Transfer-Encoding needs HTTP/1.1"))
        elif b"transfer-encoding" in names:
            self._check_codings()
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and not self._http10):
            self._fail(errors.malformed_http("exactly one Host header is needed"))
        for name, value in self._headers:
            lowered = name.lower()
            if lowered == b"content-length" and int(value) > self._limits.body:
                self._fail(errors.body_too_large(self._limits.body))
            elif lowered == b"expect":
                self.wants_continue = value.strip().lower() == b"100-continue"
        if any(token in _BODY_TOKENS for token in connection_tokens(self._headers)):
            self._fail(errors.malformed_http("Connection must not name a framing header"))

    def _check_codings(self) -> None:
        values = b",".join(value for name, value in self._headers if name.lower() == b"transfer-encoding")
        codings = [coding.strip().lower() for coding in values.split(b",")]
        if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            self._fail(errors.malformed_http("only the last Transfer-Encoding is 'chunked'"))
        elif len(codings) > 1:
            self._fail(errors.transfer_coding_unsupported())

    def on_body(self, body: bytes) -> None:
        """Part of the body, free of transfer coding."""
        if self.failure is not None:
            return
        if len(self._body) + len(body) > self._limits.body:
            self._fail(errors.body_too_large(self._limits.body))
            return
        self._body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.phase = Phase.IDLE
        self.wants_continue = False
        if self.failure is not None:
            return
        self._done.append(
            Request(
                method=self._parser.get_method(),
                target=b"".join(self._target),
                headers=self._headers,
                lookup=first_of_each(self._headers),
                body=bytes(self._body),
                keep_alive=self._keep_alive,
                http10=self._http10,
                size=self._head_size + len(self._body),
                notes=HeadNotes(),
            )
        )
        self._body = bytearray()
