"""A request of HTTP/1.1 said in HTTP/2, and the status of what comes back: for requests that are sent on both."""

from __future__ import annotations

from mica_runtime.http2 import frames
from mica_runtime.http2.frames import HEAD_SIZE, PREFACE, Kind
from mica_runtime.http2.hpack import Decoder, HpackError

_LONGEST = 126
_FRAME = 16_000
HELLO = PREFACE + frames.settings({})


def as_http2(raw: bytes) -> bytes:
    """The same method, path and body as one stream of a connection; bytes that are no request follow the greeting as they are."""
    head, _, body = raw.partition(b"\r\n\r\n")
    words = head.split(b"\r\n")[0].split(b" ")
    if len(words) != 3:
        return HELLO + raw
    block = _literal(b":method", words[0][:_LONGEST]) + _literal(b":path", words[1][:_LONGEST]) + _literal(b":scheme", b"https")
    said = frames.frame(Kind.HEADERS, frames.END_HEADERS | (0 if body else frames.END_STREAM), 1, block)
    parts = [body[at : at + _FRAME] for at in range(0, len(body), _FRAME)]
    ends = [frames.END_STREAM if part is parts[-1] else 0 for part in parts]
    return HELLO + said + b"".join(frames.frame(Kind.DATA, end, 1, part) for end, part in zip(ends, parts, strict=True))


def status_and_body(answer: bytes) -> tuple[int, bytes]:
    """Of the first answer; status 0 when there is none."""
    status, body, at = 0, b"", 0
    while at + HEAD_SIZE <= len(answer):
        size, kind, *_ = frames.head(answer, at)
        payload = answer[at + HEAD_SIZE : at + HEAD_SIZE + size]
        if kind == Kind.HEADERS:
            status = _status(payload)
        elif kind == Kind.DATA:
            body += payload
        at += HEAD_SIZE + size
    return status, body


def complete(answer: bytes) -> bool:
    """Whether the answer, or the connection, has come to its end."""
    at = 0
    while at + HEAD_SIZE <= len(answer):
        size, kind, flags, _ = frames.head(answer, at)
        at += HEAD_SIZE + size
        if at <= len(answer) and (kind == Kind.GOAWAY or (kind == Kind.DATA and flags & frames.END_STREAM)):
            return True
    return False


def _status(block: bytes) -> int:
    try:
        return int(dict(Decoder().decode(block)).get(b":status", b"0"))
    except (HpackError, ValueError):
        return 0


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
