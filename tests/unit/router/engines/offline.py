"""Scripted engines without sockets: the bytes of their answers, at once. For tests that cut streams in hundreds of places."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ..conftest import EngineRequest
from .toy_engine import Answer, Dialect, EngineState


class Nowhere:
    """A writer that keeps what is written."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


async def _no_pace() -> None:
    pass


async def answer_of(dialect: Dialect, path: str, body: bytes | dict[str, Any]) -> tuple[int, list[bytes]]:
    """Status, and the body in the pieces in which it would have been written: a chunk each for a stream."""
    content = body if isinstance(body, dict) else json.loads(body)
    dialect.state.pace = _no_pace
    whole = dialect.post(path, content)
    nowhere: Any = Nowhere()
    if whole is None:
        answer = Answer(dialect.state, EngineRequest(b"", b"", 0, asyncio.Event()), nowhere)
        try:
            await dialect.generate(path, content, answer)
        except Exception as error:
            if type(error).__name__ != "Died":  # llama.cpp hangs up after a stream
                raise
        whole = nowhere.parts.pop(0) if nowhere.parts else b""
    head, _, rest = whole.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), ([rest] if rest else []) + nowhere.parts


__all__ = ["EngineState", "answer_of"]
