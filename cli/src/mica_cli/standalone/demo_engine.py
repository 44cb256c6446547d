"""A very small engine for `mica run --demo`: words from a chain over a few sentences, served as vLLM serves tokens.

It exists so that the router has something to route to on a machine with nothing but this package. It is no language model: what
it says is a walk through `TEXT`. Its answers are a function of the token ids alone, and it takes and gives token ids, so a stream
whose engine is killed goes on elsewhere, word for word. ``python -m mica_cli.standalone.demo_engine PORT PACE_MS``.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

TEXT: Final = """
Mica splits a GPU into slices, places inference on them and serves it. A slice has memory and a share of the time of its card.
A request that finds the GPU engines busy may be answered by a CPU engine. A stream whose engine dies goes on from the next token,
and the client sees one answer. This text comes from a small chain of words, which is no model, but it streams like one.
The router counts what is in flight, asks every engine how busy it is, and sends a request where it will be done first. When no
engine is there, requests wait in a queue, and their clients are told that they wait. Try to stop an engine while it talks.
"""
NAME: Final = "mica-demo"
CONTEXT: Final = 4096


class Chain:
    """Words and what may follow them. Ids are positions in a sorted vocabulary, so that all engines agree on them."""

    def __init__(self, text: str = TEXT) -> None:
        words = [" " + word for word in text.split()]
        self.words = sorted(set(words))
        self._ids = {word: number for number, word in enumerate(self.words)}
        self._after: dict[int, list[int]] = {}
        for one, other in pairwise(words):
            self._after.setdefault(self._ids[one], []).append(self._ids[other])
        self._starts = [self._ids[words[0]], *(self._ids[o] for w, o in pairwise(words) if w.endswith("."))]

    def encode(self, text: str) -> list[int]:
        """Ids of the words of a text; one that the chain does not know gets the id of a known one."""
        return [self._ids.get(f" {word}", sum(word.encode()) % len(self.words)) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of these ids."""
        return "".join(self.words[number] for number in ids)

    def following(self, ids: Sequence[int]) -> int:
        """The next id: a function of all ids before it, so that the same beginning leads to the same end."""
        choice = len(ids) * 31 + sum(ids[-8:])
        followers = self._after.get(ids[-1]) if ids and not self.words[ids[-1]].endswith(".") else None
        return followers[choice % len(followers)] if followers else self._starts[choice % len(self._starts)]


@dataclass(slots=True)
class Engine:
    """Counts for `/metrics`, and the pace in seconds per token."""

    pace: float
    chain: Chain = field(default_factory=Chain)
    running: int = 0
    generated: int = 0

    async def generate(self, prompt: list[int], tokens: int) -> AsyncIterator[int]:
        """Ids at the engine's pace; leaves as soon as nobody listens."""
        ids = list(prompt)
        self.running += 1
        try:
            for _ in range(tokens):
                await asyncio.sleep(self.pace)
                ids.append(self.chain.following(ids))
                self.generated += 1
                yield ids[-1]
        finally:
            self.running -= 1

    def metrics(self) -> str:
        """What vLLM tells of itself, as far as the router reads it."""
        return (
            f"vllm:num_requests_running {self.running}\nvllm:num_requests_waiting 0\n"
            f"vllm:kv_cache_usage_perc {min(1.0, self.running / 64)}\nvllm:generation_tokens_total {self.generated}\n"
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the engine understands it."""

    chat: bool
    prompt: list[int]
    tokens: int
    stream: bool
    ids: bool
    usage: bool


def understand(path: str, body: dict[str, Any], chain: Chain) -> Asked:
    """Raises ValueError with words for what this engine cannot do."""
    chat = path == "/v1/chat/completions"
    asked = body.get("messages" if chat else "prompt")
    if chat and isinstance(asked, list):
        prompt = chain.encode(" ".join(str(message.get("content") or "") for message in asked if isinstance(message, dict)))
    elif isinstance(asked, str):
        prompt = chain.encode(asked)
    else:
        inner = asked[0] if isinstance(asked, list) and asked and isinstance(asked[0], list) else asked
        if not isinstance(inner, list) or not all(isinstance(n, int) and 0 <= n < len(chain.words) for n in inner):
            raise ValueError("messages or prompt must be text, or token ids of this engine")
        prompt = list(inner)
    tokens = body.get("max_completion_tokens") or body.get("max_tokens") or 48
    if not isinstance(tokens, int) or not 1 <= tokens <= CONTEXT:
        raise ValueError(f"max_tokens must be between 1 and {CONTEXT}")
    options = body.get("stream_options") or {}
    return Asked(
        chat, prompt, tokens, bool(body.get("stream")), bool(body.get("return_token_ids")), bool(options.get("include_usage"))
    )


class Connection:
    """One client of the engine: requests one after the other."""

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        """Until the client leaves."""
        try:
            while True:
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"\r\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
                body = await self._reader.readexactly(int(length[1])) if length else b""
                method, path = head.split(" ", 2)[:2]
                await self._answer(method, path.partition("?")[0], body)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            self._writer.close()

    async def _answer(self, method: str, path: str, body: bytes) -> None:
        if method == "GET":
            self._get(path)
            return
        try:
            content = json.loads(body)
            if path == "/detokenize":
                self._send(200, {"prompt": self._engine.chain.decode(content["tokens"])})
            elif path in ("/v1/chat/completions", "/v1/completions"):
                await self._complete(understand(path, content, self._engine.chain))
            else:
                self._send(404, {"error": {"message": f"{path} is not served by the demo's engine", "type": "NotFoundError"}})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._send(400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}})

    def _get(self, path: str) -> None:
        if path == "/metrics":
            self._send(200, self._engine.metrics())
        elif path == "/v1/models":
            card = {"id": NAME, "object": "model", "created": 0, "owned_by": "mica", "max_model_len": CONTEXT}
            self._send(200, {"object": "list", "data": [card]})
        elif path == "/version":
            self._send(200, {"version": "demo"})
        else:
            self._send(200 if path == "/health" else 404, {})

    async def _complete(self, asked: Asked) -> None:
        usage = {"prompt_tokens": len(asked.prompt)}
        if asked.stream:
            await self._stream(asked, usage)
            return
        ids: list[int] = []
        async for number in self._engine.generate(asked.prompt, asked.tokens):
            ids.append(number)
            if self._reader.at_eof():
                raise ConnectionResetError("the client left")
        text = self._engine.chain.decode(ids)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if asked.chat else {"text": text}
        usage |= {"completion_tokens": len(ids), "total_tokens": len(asked.prompt) + len(ids)}
        self._send(200, self._shape(asked, "chat.completion") | {"choices": [choice], "usage": usage})

    async def _stream(self, asked: Asked, usage: dict[str, int]) -> None:
        self._writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        shape = self._shape(asked, "chat.completion.chunk")
        if asked.chat:
            first = shape | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
            self._event(first | ({"prompt_token_ids": asked.prompt} if asked.ids else {}))
        told = 0
        async for number in self._engine.generate(asked.prompt, asked.tokens):
            told += 1
            word = self._engine.chain.decode([number])
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if told == asked.tokens else None}
            choice |= {"delta": {"content": word}} if asked.chat else {"text": word}
            if asked.ids:
                choice |= {"token_ids": [number]} | ({} if asked.chat or told > 1 else {"prompt_token_ids": asked.prompt})
            self._event(shape | {"choices": [choice]})
            await self._writer.drain()
        if asked.usage:
            usage |= {"completion_tokens": told, "total_tokens": len(asked.prompt) + told}
            self._event(shape | {"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._writer.write(b"0\r\n\r\n")

    def _shape(self, asked: Asked, kind: str) -> dict[str, Any]:
        return {
            "id": f"demo-{self._engine.generated}",
            "object": kind if asked.chat else "text_completion",
            "created": 0,
            "model": NAME,
        }

    def _event(self, content: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _send(self, status: int, content: dict[str, Any] | str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        kind = "text/plain" if isinstance(content, str) else "application/json"
        data = text.encode()
        reason = "OK" if status == 200 else "Error"
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
        self._writer.write(head.encode() + data)


async def serve(port: int, *, pace: float) -> None:
    """Until cancelled. Raises OSError when the port is taken."""
    engine = Engine(pace)
    server = await asyncio.start_server(lambda reader, writer: Connection(engine, reader, writer).serve(), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), pace=float(sys.argv[2]) / 1000))
