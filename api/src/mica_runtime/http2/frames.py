"""Frames of HTTP/2 (RFC 9113, sections 4 and 6) as bytes: building them, and taking apart what one holds. No I/O, no state."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_SIZE: Final = 9
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20

_HEAD: Final = Struct(">HBBBI")
_PAIR: Final = Struct(">HI")
_WORD: Final = Struct(">I")


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """Settings that this server sends or heeds."""

    HEADER_TABLE_SIZE = 1
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection is ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Broken(Exception):
    """The peer broke the protocol; the connection has to end with ``code``."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def head(buffer: bytes, at: int) -> tuple[int, int, int, int]:
    """Size of the payload, type, flags and stream of the frame that begins there; nine bytes must be there."""
    high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
    return high << 8 | low, kind, flags, stream & MAX_WINDOW


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(_PAIR.pack(setting, value) for setting, value in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Settings of the peer. Raises Broken."""
    if len(payload) % _PAIR.size:
        raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    return _PAIR.iter_unpack(payload)


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, _WORD.pack(more))


def reset(stream: int, code: Code) -> bytes:
    """A RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last: int, code: Code) -> bytes:
    """A GOAWAY frame: streams up to ``last`` were or will be answered."""
    return frame(Kind.GOAWAY, 0, 0, _WORD.pack(last) + _WORD.pack(code))


def word(payload: bytes) -> int:
    """The 31-bit number that a frame consists of. Raises Broken."""
    if len(payload) != _WORD.size:
        raise Broken(Code.FRAME_SIZE_ERROR, "frame of a wrong size")
    number: int = _WORD.unpack(payload)[0]
    return number & MAX_WINDOW


def without_padding(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame holds. Raises Broken."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Broken(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
