"""The little that a raw ASGI application needs: a bounded body and a JSON answer. A framework costs more than a decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class TooLarge(ValueError):
    """The body is larger than the limit; it has been read to its end and dropped."""


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes. Raises TooLarge after dropping the rest, so that an answer can still be sent."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body", False):
            break
    if size > limit:
        raise TooLarge(f"body of {size} bytes; at most {limit} are read")
    return b"".join(parts)


async def answer(send: Send, *, body: bytes, status: int = 200, content_type: bytes = b"application/json") -> None:
    """Send a complete response."""
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
