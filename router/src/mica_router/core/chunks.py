"""Recognizing whole chunks of a chunked body by a few comparisons, without a parser.

Engines write an event as one chunk, and a read nearly always ends where a chunk ends. From one chunk's end to another nothing has
to be remembered, so such a read needs no parser, and a parser that stands at a chunk's end may be spared any number of them.
What is not recognized here (parts of chunks, extensions, trailers) is llhttp's: nothing is refused here.
"""

from __future__ import annotations

import re
from typing import Final

NOT_WHOLE: Final = 0
WHOLE: Final = 1
LAST: Final = 2
"""What `whole_chunks` finds. LAST: the body's end is among them, and nothing behind it."""

# An event's end and a chunk's end; the first LF might also be that of a chunk's header, before a payload of one LF.
EVENT_END: Final = b"\n\n\r\n"
ONE_BYTE: Final = b"\r\n\n\r\n"

LONGEST: Final = 4096
"""Reads from this size on have no entry in `OPENINGS`."""


def _opening(size: int) -> tuple[int, bytes]:
    for digits in (1, 2, 3):
        payload = size - digits - 4
        opening = b"%x\r\n" % max(payload, 0)
        if payload > 1 and len(opening) == digits + 2:
            return len(opening), opening
    return 1, b""


# A chunk of one byte has none: its LF could be taken for the end of an event.
OPENINGS: Final = tuple(_opening(size) for size in range(LONGEST))
"""By the size of a read: with how many and which bytes it begins if it is one chunk of two bytes or more. Where it cannot be one,
what no slice of that many bytes equals. To compare a slice is cheaper than `startswith`."""

# The payload's size, by the opening of a chunk: sizes of two and three digits, as engines write them.
_SHORT: Final = {b"%x\r\n" % size: size for size in range(0x10, 0x100)}
_LONG: Final = {b"%x\r\n" % size: size for size in range(0x100, 0x1000)}
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,7})\r\n")
_END: Final = b"\r\n"
# How nearly every stream ends, behind its last event.
_DONE: Final = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def whole_chunks(data: bytes) -> int:
    """Whether these bytes, which begin where a chunk may begin, are whole chunks and nothing else."""
    size, kind = len(data), WHOLE
    if data.endswith(_DONE):
        size, kind = size - len(_DONE), LAST
        if not size:
            return LAST
    if size < LONGEST:
        count, opening = OPENINGS[size]
        if data[:count] == opening and data[size - 2 : size] == _END:
            return kind
    at, size = 0, len(data)
    while at < size:
        if length := _SHORT.get(data[at : at + 4]):
            end = at + 4 + length
        elif length := _LONG.get(data[at : at + 5]):
            end = at + 5 + length
        elif found := _SIZE.match(data, at):
            length = int(found[1], 16)
            end = found.end() + length
        else:
            return NOT_WHOLE
        if data[end : end + 2] != _END:
            return NOT_WHOLE
        at = end + 2
        if not length:
            return LAST if at == size else NOT_WHOLE
    return WHOLE if size else NOT_WHOLE
