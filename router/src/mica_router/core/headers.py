"""Header rules of a proxy (RFC 9110 §7.6): what is forwarded, what ends at this hop. Pure functions of header lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from mica_router.core.engines import Endpoint

Header = tuple[bytes, bytes]

_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"upgrade"}
)
# The router reads the whole body, so it states its length itself; it answers Expect itself; Host is the engine's.
_OWN_REQUEST: Final = _HOP_BY_HOP | {b"transfer-encoding", b"content-length", b"host", b"expect", b"trailer"}
# A sender may nominate headers for removal, but never those that frame the message.
_FRAMING: Final = frozenset({b"transfer-encoding", b"content-length"})
_MAX_HOST_LINES: Final = 4096


def connection_tokens(headers: Iterable[Header]) -> frozenset[bytes]:
    """Lower-case tokens of every Connection header."""
    return frozenset(
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    )


def _render(headers: Iterable[Header], *, dropped: frozenset[bytes]) -> list[bytes]:
    return [b"%s: %s\r\n" % (name, value) for name, value in headers if name.lower() not in dropped]


def first_of_each(headers: list[Header]) -> dict[bytes, bytes]:
    """The first header of each name, by lower-case name."""
    return {name.lower(): value for name, value in reversed(headers)}


def render_forwarded(headers: list[Header], *, without: frozenset[bytes]) -> bytes:
    """The end-to-end headers of a request, as lines. `without`: names (lower case) that are left out as well."""
    return b"".join(_render(headers, dropped=_OWN_REQUEST.union(connection_tokens(headers), without)))


def carries_length(method: bytes) -> bool:
    """Whether a request of this method states the length of a body that it does not have."""
    return method not in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")


def render_request_opening(*, method: bytes, target: bytes, authority: str, forwarded: bytes, http10: bool = False) -> bytes:
    """The head that an engine gets, without its end: same method and end-to-end headers (`forwarded`), own Host.

    `http10`: the client speaks HTTP/1.0 and cannot read chunks, so the engine must not send any.
    """
    start = b"%s %s HTTP/1.%d\r\nHost: %s\r\n" % (method, target, 0 if http10 else 1, authority.encode("ascii"))
    return b"%s%s%s" % (start, b"Connection: close\r\n" if http10 else b"", forwarded)


def render_request_start(method: bytes, target: bytes) -> bytes:
    """The part of an opening before what tells engines apart (`host_line`) and the end-to-end headers."""
    return b"%s %s HTTP/1.1\r\nHost: " % (method, target)


class _HostLines(dict[Endpoint, bytes]):
    def __missing__(self, endpoint: Endpoint) -> bytes:
        if len(self) >= _MAX_HOST_LINES:
            self.clear()
        found = self[endpoint] = endpoint.authority.encode("ascii") + b"\r\n"
        return found


# The rest of an engine's Host line: the dictionary's own method, because every request needs one.
host_line: Final[Callable[[Endpoint], bytes]] = _HostLines().__getitem__


def with_length(opening: bytes, length: int, *, always: bool) -> bytes:
    """The whole head of a request, of its opening and the length of its body. `always`: a length of 0 is told as well."""
    return b"%bContent-Length: %d\r\n\r\n" % (opening, length) if length or always else opening + b"\r\n"


def render_response_head(*, status_line: bytes, headers: list[Header], close: bool, chunked: bool = False) -> bytes:
    """The head that a client gets: the engine's, less what belongs to the engine's connection.

    `chunked`: the engine's body ends with its connection, the client's will be of chunks.
    """
    lines = [
        status_line,
        b"\r\n",
        *_render(headers, dropped=_HOP_BY_HOP | (connection_tokens(headers) - _FRAMING)),
    ]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def render_own_head(status: int, headers: Iterable[Header], *, length: int | None, chunked: bool, close: bool) -> bytes:
    """The head of an answer whose body the router makes: framed by `length`, by chunks, or by the end of the connection."""
    lines = [
        b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode()),
        *_render(headers, dropped=_HOP_BY_HOP | _FRAMING),
    ]
    if length is not None:
        lines.append(b"Content-Length: %d\r\n" % length)
    elif chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
