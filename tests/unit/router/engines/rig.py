"""A recording and a splice between two scripted engines, without sockets: what the client gets when the first dies anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar

from mica_router.core.continuation import Continuation, Ended, Recording, Reply
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.features import Features
from mica_router.core.resume.book import Book
from mica_router.core.routes import Service, ServiceKey, build_table

from .offline import answer_of
from .toy_engine import Dialect, EngineState
from .vllm_dialect import VllmDialect

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ENGINE = Engine(endpoint=Endpoint("10.0.0.1", 8000), kind="vllm", revision="r1")
ROUTE = build_table([Service(key=ServiceKey("a", "toy"), model="toy", engines=(ENGINE,))]).listed[0]
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Erzähle 中文"}]},
    COMPLETIONS: {"prompt": "Es war einmal"},
}


def features(path: str, body: dict[str, Any]) -> Features:
    return Features(
        route=ROUTE, method=b"POST", path=path, target=path.encode(), headers=[], body=json.dumps(body).encode(), streams=True
    )


def request(path: str, **options: Any) -> dict[str, Any]:
    return {"model": "toy", "stream": True, "temperature": 0, "max_tokens": 60} | PROMPTS[path] | options


def events(payload: bytes) -> list[dict[str, Any] | None]:
    """Events of a payload; None stands for the end mark."""
    blocks = [block for block in payload.split(b"\n\n") if block and not block.startswith(b":")]
    assert all(block.startswith(b"data: ") for block in blocks), payload
    return [None if block == b"data: [DONE]" else json.loads(block[6:]) for block in blocks]


def payload_of(frames: list[bytes]) -> bytes:
    """Payload of chunks that are whole."""
    return b"".join(frame.partition(b"\r\n")[2][:-2] for frame in frames if frame != b"0\r\n\r\n")


@dataclass
class Told:
    """What a client can know of a stream."""

    text: str
    finish: list[tuple[str, Any]]
    usage: list[dict[str, Any]]
    ids: list[int]
    identities: set[tuple[str, str, int, str]]
    ended: bool


def told(payload: bytes) -> Told:
    said = events(payload)
    assert None not in said[:-1]
    chunks = [event for event in said if event is not None]
    choices = [choice for event in chunks for choice in event["choices"]]
    return Told(
        text="".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices),
        finish=[(c["finish_reason"], c.get("stop_reason")) for c in choices if c["finish_reason"]],
        usage=[event["usage"] for event in chunks if event.get("usage") and not event["choices"]],
        ids=[token for choice in choices for token in choice.get("token_ids") or ()],
        identities={(event["id"], event["object"], event["created"], event["model"]) for event in chunks},
        ended=bool(said) and said[-1] is None,
    )


@dataclass
class Rig:
    """Two engines with the same weights, and the calls that were made to the second one."""

    engine: ClassVar[Engine] = ENGINE

    path: str
    body: dict[str, Any]
    first: Dialect = field(default_factory=lambda: VllmDialect(EngineState()))
    second: Dialect = field(default_factory=lambda: VllmDialect(EngineState()))
    calls: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    book: Book = field(default_factory=lambda: Book(each=1 << 20, together=1 << 24))

    async def undisturbed(self) -> list[bytes]:
        """Frames of the answer to what the book sends, from the first engine."""
        handling = self.book.open(features(self.path, self.body), self.engine)
        if handling.recording is not None:
            handling.recording.close()
        self.first.answers = 0
        status, frames = await answer_of(self.first, self.path, handling.body or self.body)
        assert status == 200
        return frames

    def told(self, payload: bytes) -> Told:
        """What the client was told; ids only if it asked for them, because the router asks for them as well."""
        full = told(payload)
        return full if self.body.get("return_token_ids") else replace(full, ids=[])

    def recording(self) -> Recording:
        handling = self.book.open(features(self.path, self.body), self.engine)
        assert handling.recording is not None, handling.reason
        return handling.recording

    async def call(self, path: str, body: bytes) -> Reply:
        self.calls.append(path)
        status, parts = await answer_of(self.second, path, body)
        return Reply(status, b"".join(parts))

    async def go_on(self, recording: Recording, *, die_after: int | None = None) -> bytes:
        """What the client gets after a death; the next engine may die after so many events as well."""
        outcome = await recording.resume(self.engine, self.call)
        if isinstance(outcome, Ended):
            return outcome.body
        assert isinstance(outcome, Continuation), outcome
        assert outcome.accepts(self.engine)
        path, content = outcome.target.decode(), json.loads(outcome.body)
        self.asked.append(content)
        status, frames = await answer_of(self.second, path, content)
        assert status == 200, frames
        payload = payload_of(frames)
        if die_after is None:
            return feed_in_pieces(outcome, payload)
        kept = b"\n\n".join(payload.split(b"\n\n")[:die_after])
        return outcome.translator.feed(kept + b"\n\n" if kept else b"")


def feed_in_pieces(continuation: Continuation, payload: bytes) -> bytes:
    random = Random(len(payload))
    at, out = 0, b""
    while at < len(payload):
        size = random.choice((1, 7, 300, 5000))
        out += continuation.translator.feed(payload[at : at + size])
        at += size
    return out + continuation.translator.finish()
