"""What an engine gets of the client's headers: no key that was checked here, no leave to compress what the router may have to
read or to add to, and a trace context if the client has none."""

from __future__ import annotations

from binascii import hexlify
from random import getrandbits
from typing import Final

from mica_router.core.headers import render_forwarded
from mica_router.core.keys import KEY_HEADERS
from mica_router.core.request import Request

# A bit of either id: none of them may be zero.
_NOT_ZERO: Final = 1 << 7 | 1 << 191

MESSAGES: Final = "/v1/messages"
_GENERATING: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", MESSAGES})
"""Their answers may be streams, which go on at another engine or end with an error event, and are put together of streams."""

_NOTHING: Final[frozenset[bytes]] = frozenset()
_CODINGS: Final = frozenset({b"accept-encoding"})
_LEFT_OUT: Final = (_NOTHING, _CODINGS, KEY_HEADERS, KEY_HEADERS | _CODINGS)
"""Names of headers that engines do not get, by twice whether keys are hidden, plus whether the answer must be readable here."""


def forwarded_of(request: Request, *, path: str, hides_keys: bool) -> bytes:
    """Header lines. `path`: that of the request, for the engine. Kept with what is known of the head: most heads come again."""
    unread = path in _GENERATING and b"accept-encoding" in request.lookup
    # A number, because the garbage collector need not look into a dictionary of numbers and bytes.
    how = 2 * hides_keys + unread
    notes = request.notes
    found = None if notes is None else notes.lines.get(how)
    if found is None:
        found = render_forwarded(request.headers, without=_LEFT_OUT[how])
        if notes is not None:
            notes.lines[how] = found
    return found


def is_traced(request: Request) -> bool:
    """Whether the client sends a trace context."""
    return b"traceparent" in request.lookup


def trace_line() -> bytes:
    """A new trace context (W3C): ids of 128 and 64 random bits, which are no secret."""
    ids = (getrandbits(192) | _NOT_ZERO).to_bytes(24, "big")
    # A negative width counts from the left: 16 bytes, a dash, 8 bytes.
    return b"traceparent: 00-" + hexlify(ids, b"-", -16) + b"-01\r\n"
