"""A pretended engine: answers at once, or streams events at a steady pace. It computes nothing and is not what is measured.

As a real one's, its heads tell the time and the length of the answer, which is one of `LENGTHS`: a router that knows heads again
knows them as often as it would elsewhere.

``python -m benchmarks.router.engine PORT``. A request with ``"stream":true`` gets `EVENTS` events, `PACE_S` apart, with token ids
where they were asked for (``return_token_ids``, as vLLM does); with ``"user":"idle"`` the first event and then nothing, until it
leaves. Everything else gets one JSON body. ``GET`` is answered with 200, so that health checks of all routers are content.
"""

from __future__ import annotations

import asyncio
import sys
import time
from email.utils import formatdate
from functools import lru_cache
from itertools import count
from typing import Final, cast

import uvloop

EVENTS: Final = 50
PACE_S: Final = 0.004
MODEL: Final = "bench"
_MODELS: Final = b'{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench","max_model_len":8192}]}'
LENGTHS: Final = 200
_TEXT: Final = "token " * 60


def _head(second: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\ndate: %s\r\nserver: uvicorn\r\n" % formatdate(second, usegmt=True).encode()


@lru_cache(maxsize=2 * LENGTHS)
def plain(body: bytes, second: int) -> bytes:
    """A whole response with this JSON body."""
    return b"%scontent-length: %d\r\ncontent-type: application/json\r\n\r\n%s" % (_head(second), len(body), body)


@lru_cache(maxsize=2)
def stream_head(second: int) -> bytes:
    """The head of a stream of events."""
    return _head(second) + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _completion(number: int) -> bytes:
    return (
        '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,"message":'
        f'{{"role":"assistant","content":"{_TEXT}{"x" * number}"}},"finish_reason":"stop"}}],'
        '"usage":{"prompt_tokens":50,"completion_tokens":60,"total_tokens":110}}'
    ).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(delta: str, *, finish: str = "null", ids: str = "") -> bytes:
    """One chunk that holds one event of a chat completion."""
    return chunk(
        (
            'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[{"index":0,"delta":'
            f'{delta},"logprobs":null,"finish_reason":{finish}{ids}}}]}}\n\n'
        ).encode()
    )


COMPLETIONS: Final = [_completion(number) for number in range(LENGTHS)]
_turn: Final = count()
FIRST: Final = event('{"role":"assistant","content":""}')
_EVENT: Final = event('{"content":"token "}')
EVENT_WITH_IDS: Final = event('{"content":"token "}', ids=',"token_ids":[17]')
END: Final = event('{"content":""}', finish='"stop"') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A router connects."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left: nothing is generated for nobody."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Requests, whole or in parts."""
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            mark = head.find(b"content-length:")
            length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        now = int(time.time())
        if head.startswith(b"get"):
            self._transport.write(plain(_MODELS, now))
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._transport.write(stream_head(now) + FIRST)
            if b'"idle"' not in body:
                self._schedule(EVENTS - 1, EVENT_WITH_IDS if b"return_token_ids" in body else _EVENT)
        else:
            self._transport.write(plain(COMPLETIONS[next(_turn) % LENGTHS], now))

    def _schedule(self, left: int, what: bytes) -> None:
        self._timer = self._loop.call_later(PACE_S, self._next, left, what)

    def _next(self, left: int, what: bytes) -> None:
        if self._transport is None:
            return
        if left == 0:
            self._transport.write(END)
            return
        self._transport.write(what)
        self._schedule(left - 1, what)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(loop), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
