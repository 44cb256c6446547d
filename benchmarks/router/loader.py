"""The load: connections that ask again as soon as they are answered. Tells what it saw as one JSON line.

``python -m benchmarks.router.loader URL {plain,stream,idle} CONNECTIONS SECONDS [KEY]``. It reads as little as it can (lengths
and the end of streams), so that it is cheaper than any router; the benchmark measures it without one to show what it can do.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.router.engine import MODEL

_PROMPT: Final = "Tell me something about scheduling of accelerators in a cluster. " * 7
LENGTHS: Final = 200
"""Requests have so many different lengths, so their heads differ as those of real clients do."""
END_OF_STREAM: Final = b"0\r\n\r\n"


@dataclass(slots=True)
class Seen:
    """What all connections saw. Latencies in seconds."""

    requests: int = 0
    errors: int = 0
    events: int = 0
    latencies: list[float] = field(default_factory=list)
    first_error: str = ""

    def failed(self, why: str) -> None:
        """Count a failure and keep the first one's words."""
        self.errors += 1
        self.first_error = self.first_error or why


def request(url: str, *, kind: str, key: str, number: int = 0) -> bytes:
    """The bytes of one request, a byte longer for each `number`.

    Temperature is 0, so that routers that resume streams do their bookkeeping.
    """
    parts = urlsplit(url)
    body = {"model": MODEL, "messages": [{"role": "user", "content": _PROMPT + "x" * number}], "temperature": 0, "max_tokens": 50}
    body |= {} if kind == "plain" else {"stream": True}
    body |= {"user": "idle"} if kind == "idle" else {}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Client(asyncio.Protocol):
    """One connection that asks until `until` (monotonic seconds)."""

    def __init__(self, seen: Seen, *, messages: Iterator[bytes], stream: bool, until: float, over: asyncio.Future[None]) -> None:
        self._seen = seen
        self._messages = messages
        self._stream = stream
        self._until = until
        self._over = over
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._tail = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first time."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody hung up: a failure while an answer was awaited."""
        if not self._over.done():
            self._seen.failed("connection closed")
            self._over.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parts of an answer."""
        if self._stream:
            self._part_of_stream(data)
            return
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        mark = head.find(b"content-length:")
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else None
        whole = len(self._buffer) >= end + 4 + length if length is not None else self._buffer.endswith(END_OF_STREAM)
        if whole:
            self._answered(b" 200 " in self._buffer[:16])

    def _part_of_stream(self, data: bytes) -> None:
        self._buffer = self._buffer or data[:16]
        self._seen.events += data.count(b"data: ")
        self._tail = (self._tail + data)[-16:]
        if self._tail.endswith(END_OF_STREAM) or b" 200 " not in self._buffer:
            self._answered(b" 200 " in self._buffer)

    def _answered(self, well: bool) -> None:
        now = time.monotonic()
        if well:
            self._seen.requests += 1
            self._seen.latencies.append(now - self._sent)
        else:
            self._seen.failed(self._buffer[:200].decode("latin-1"))
        if now < self._until and self._seen.errors < 100:
            self._ask()
            return
        if not self._over.done():
            self._over.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def _ask(self) -> None:
        self._buffer = self._tail = b""
        self._sent = time.monotonic()
        if self._transport is not None:
            self._transport.write(next(self._messages))


async def load(url: str, *, kind: str, connections: int, seconds: float, key: str) -> Seen:
    """Ask for so long; streams that have begun are read to their end."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    seen = Seen()
    messages = cycle([request(url, kind=kind, key=key, number=number) for number in range(LENGTHS)])
    until = time.monotonic() + seconds
    waits: list[asyncio.Future[None]] = []
    for _ in range(connections):
        over: asyncio.Future[None] = loop.create_future()
        waits.append(over)

        def client(over: asyncio.Future[None] = over) -> Client:
            return Client(seen, messages=messages, stream=kind != "plain", until=until, over=over)

        await loop.create_connection(client, parts.hostname or "", parts.port or 80)
    if kind == "idle":
        print(json.dumps({"open": connections}), flush=True)
        await asyncio.sleep(seconds)
        return seen
    await asyncio.wait(waits, timeout=seconds + 30)
    return seen


def main() -> None:
    """Entry point."""
    url, kind, connections, seconds, *key = sys.argv[1:]
    began = time.monotonic()
    seen = uvloop.run(load(url, kind=kind, connections=int(connections), seconds=float(seconds), key=key[0] if key else "bench"))
    took = time.monotonic() - began
    ordered = sorted(seen.latencies)
    print(
        json.dumps(
            {
                "requests": seen.requests,
                "errors": seen.errors,
                "first_error": seen.first_error,
                "events": seen.events,
                "seconds": took,
                "p50": ordered[len(ordered) // 2] if ordered else None,
                "p99": ordered[len(ordered) * 99 // 100] if ordered else None,
            }
        )
    )


if __name__ == "__main__":
    main()
