"""Header compression of HTTP/2 (HPACK, RFC 7541): a decoder, and literals for the few headers that answers have.

Not an encoder with a table of its own: answers have three headers.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final

Headers = tuple[tuple[bytes, bytes], ...]

TABLE_SIZE: Final = 4096
"""What a peer may use of the dynamic table until it has seen other settings."""
_ENTRY_COSTS: Final = 32
_MAX_NUMBER: Final = 2**24
_STATIC: Final = tuple(
    (name, value)
    for name, _, value in (
        entry.strip().partition(b" ")
        for entry in (
            b":authority;:method GET;:method POST;:path /;:path /index.html;:scheme http;:scheme https;:status 200;:status 204;"
            b":status 206;:status 304;:status 400;:status 404;:status 500;accept-charset;accept-encoding gzip, deflate;"
            b"accept-language;accept-ranges;accept;access-control-allow-origin;age;allow;authorization;cache-control;"
            b"content-disposition;content-encoding;content-language;content-length;content-location;content-range;content-type;"
            b"cookie;date;etag;expect;expires;from;host;if-match;if-modified-since;if-none-match;if-range;if-unmodified-since;"
            b"last-modified;link;location;max-forwards;proxy-authenticate;proxy-authorization;range;referer;refresh;retry-after;"
            b"server;set-cookie;strict-transport-security;transfer-encoding;user-agent;vary;via;www-authenticate"
        ).split(b";")
    )
)
"""RFC 7541, appendix A; the first entry has index 1."""
CODE_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606050505060606060606060708"
    "0f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f0506050605060606050707060606050607060505060707"
    "0707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615141616171715171616181516171715151615"
    "1716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a"
)
"""Bits of each byte's Huffman code (RFC 7541, appendix B). The code is canonical: the lengths tell it."""
_STATUS: Final = {int(value): bytes([0x80 | index]) for index, (name, value) in enumerate(_STATIC, 1) if name == b":status"}
_STATUS_NAME, _CONTENT_TYPE, _CONTENT_LENGTH = (
    next(index for index, (name, _) in enumerate(_STATIC, 1) if name == wanted)
    for wanted in (b":status", b"content-type", b"content-length")
)


class HpackError(ValueError):
    """The block is not what RFC 7541 says; nothing that comes after it on the connection can be understood."""


def _codes() -> dict[int, int]:
    """Symbol by its code with a 1 before the first bit, so that leading zeros count. 256 is the end of the string."""
    table: dict[int, int] = {}
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate((*CODE_LENGTHS, 30))):
        code <<= length - previous
        table[code | 1 << length] = symbol
        code, previous = code + 1, length
    return table


_CODES: Final = _codes()
_END: Final = 256


def decode_huffman(data: bytes) -> bytes:
    """The string of a Huffman code. Raises HpackError for a wrong end."""
    found = bytearray()
    code = 1
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            symbol = _CODES.get(code)
            if symbol is not None:
                if symbol == _END:
                    raise HpackError("end of string inside a string")
                found.append(symbol)
                code = 1
    # What is left is padding: fewer than eight bits, all ones.
    if code >= 1 << 8 or code & (code + 1):
        raise HpackError("wrong padding")
    return bytes(found)


class Decoder:
    """Header blocks of one connection, in the order in which they came."""

    def __init__(self) -> None:
        self._dynamic: deque[tuple[bytes, bytes]] = deque()
        self._size = 0
        self._limit = TABLE_SIZE

    @property
    def stateless(self) -> bool:
        """Whether the peer has given up the dynamic table: equal blocks mean equal headers then."""
        return self._limit == 0

    def decode(self, block: bytes) -> Headers:
        """Names and values. Raises HpackError."""
        found: list[tuple[bytes, bytes]] = []
        at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:
                    index, at = _number(block, at, 7)
                    found.append(self._entry(index))
                elif first & 0xE0 == 0x20:
                    limit, at = _number(block, at, 5)
                    self._resize(limit)
                else:
                    remembered = first & 0x40
                    header, at = self._literal(block, at, 6 if remembered else 4)
                    found.append(header)
                    if remembered:
                        self._remember(header)
        except IndexError as error:
            raise HpackError("block ends in the middle of a header") from error
        return tuple(found)

    def _literal(self, block: bytes, at: int, bits: int) -> tuple[tuple[bytes, bytes], int]:
        index, at = _number(block, at, bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 1 <= index <= len(_STATIC):
            return _STATIC[index - 1]
        if not len(_STATIC) < index <= len(_STATIC) + len(self._dynamic):
            raise HpackError(f"no header has index {index}")
        return self._dynamic[index - len(_STATIC) - 1]

    def _remember(self, header: tuple[bytes, bytes]) -> None:
        self._dynamic.appendleft(header)
        self._size += _cost(header)
        self._evict()

    def _resize(self, limit: int) -> None:
        if limit > TABLE_SIZE:
            raise HpackError(f"dynamic table of {limit} bytes, at most {TABLE_SIZE} were offered")
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            self._size -= _cost(self._dynamic.pop())


def _cost(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1]) + _ENTRY_COSTS


def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer that begins in the low ``bits`` of a byte, and where it ends."""
    full = (1 << bits) - 1
    value = block[at] & full
    at += 1
    if value < full:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > _MAX_NUMBER:
            raise HpackError("number is too large")
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 28:
            raise HpackError("number is too long")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    huffman = block[at] & 0x80
    length, at = _number(block, at, 7)
    end = at + length
    if end > len(block):
        raise HpackError("string is longer than its block")
    return (decode_huffman(block[at:end]) if huffman else block[at:end]), end


def answer_block(status: int, content_type: bytes, length: int) -> bytes:
    """Headers of an answer, all literal, so that no table is needed. ``content_type`` is shorter than 127 bytes."""
    digits = b"%d" % length
    return _before_length(status, content_type) + bytes([len(digits)]) + digits


@lru_cache(maxsize=16)
def _before_length(status: int, content_type: bytes) -> bytes:
    known = _STATUS.get(status)
    head = known if known is not None else _unindexed(_STATUS_NAME, b"%d" % status)
    return head + _unindexed(_CONTENT_TYPE, content_type) + _name(_CONTENT_LENGTH)


def _unindexed(name: int, value: bytes) -> bytes:
    return _name(name) + bytes([len(value)]) + value


def _name(name: int) -> bytes:
    # The index of a name does not fit into four bits: 15, and the rest in a byte of its own.
    return bytes([name]) if name < 15 else bytes([15, name - 15])
