"""What an engine gets of the client's headers: no key that was checked here, and a trace context if the client has none."""

from __future__ import annotations

from random import getrandbits

from mica_router.core.headers import render_forwarded
from mica_router.core.keys import without_keys
from mica_router.core.request import Request


def forwarded_of(request: Request, *, hides_keys: bool) -> bytes:
    """Header lines. The trace ids of W3C Trace Context are random and no secret."""
    lines = render_forwarded(without_keys(request.headers)) if hides_keys else request.forwarded
    if b"traceparent" in request.lookup:
        return lines
    return b"%btraceparent: 00-%032x-%016x-01\r\n" % (lines, getrandbits(128) or 1, getrandbits(64) or 1)
