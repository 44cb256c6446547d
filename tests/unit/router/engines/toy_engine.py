"""A scripted engine that speaks vLLM's dialect of OpenAI over the toy model, and fails exactly as it is told to.

Faults are taken in order, one per generating request. Nothing waits for time: every event yields to the loop once, and an engine
that hangs does so until its peer hangs up. `python -m tests.unit.router.engines --help` runs one as a process.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Literal

from ..conftest import EngineRequest, ScriptedEngine
from .generation import Step
from .toy_model import ToyModel

FaultKind = Literal["reset", "close", "half_frame", "hang", "error_event", "status", "garbage"]
Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and after how many tokens of the answer were handed out.

    `reset`: RST. `close`: FIN without the end of the body. `half_frame`: half of the next event, then RST. `hang`: silence.
    `error_event`: an error in the stream, then a proper end (an engine core that died under its server). `status`: an answer with
    `status` instead of the stream. `garbage`: bytes that are no chunk.
    """

    kind: FaultKind
    after: int = 0
    status: int = 503


@dataclass(slots=True)
class Counters:
    """`generated` tokens, `aborted` answers (their client left), `active` answers, `answers` begun."""

    generated: int = 0
    aborted: int = 0
    active: int = 0
    answers: int = 0


@dataclass(slots=True, kw_only=True)
class EngineState:
    """What a test sets and reads. `merge`: how many tokens each event carries, in turn (`--stream-interval`, or load).

    `pace` is awaited before every token: by default the loop turns once. `started`: until then, requests get a 503.
    """

    name: str = "toy"
    model: ToyModel = field(default_factory=ToyModel)
    adapters: tuple[str, ...] = ()
    max_model_len: int = 4096
    merge: tuple[int, ...] = (1,)
    variant: int = 0
    version: str = "0.32.0"
    started: bool = True
    faults: deque[Fault] = field(default_factory=deque)
    counters: Counters = field(default_factory=Counters)
    pace: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)


class Died(Exception):
    """The engine is gone for this request; nothing more is written."""


class ClientLeft(Died):
    """Nobody listens any longer."""


class Answer:
    """Writes one answer and has the fault happen at its token."""

    def __init__(self, state: EngineState, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        self._state = state
        self._request = request
        self._writer = writer
        self._given = 0
        self.fault = state.faults.popleft() if state.faults else None

    async def fail_at_once(self) -> bool:
        """Whether the fault comes before the head of the answer."""
        fault = self.fault
        if fault is None or (fault.kind != "status" and fault.after > 0):
            return False
        if fault.kind == "status":
            await self.send(render(fault.status, error_body("the engine is not well", code=fault.status)))
        else:
            await self._happen(fault, b"")
        return True

    async def send(self, data: bytes) -> None:
        """Part of an answer. Raises `ClientLeft`."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            raise ClientLeft from None

    async def send_whole(self, answer: bytes) -> None:
        """All of an answer; too late to matter if the client left."""
        with suppress(ClientLeft):
            await self.send(answer)

    async def steps(self, steps: Iterator[Step]) -> list[Step]:
        """All steps, at once; counts and notices a client that left."""
        taken = []
        for step in steps:
            await self.token()
            taken.append(step)
        return taken

    async def events(self, steps: Iterator[Step], send_event: Callable[[list[Step]], Awaitable[None]]) -> None:
        """Group steps into events as the state says; the first and the last event are never delayed."""
        sizes = cycle(self._state.merge)
        group, size = list[Step](), 1
        for step in steps:
            await self.token()
            group.append(step)
            if len(group) < size and not step.finish_reason and not self._due(len(group)):
                continue
            await send_event(group)
            await self.handed_out(len(group))
            group, size = [], next(sizes)

    async def handed_out(self, tokens: int) -> None:
        """So many more tokens left the engine; the fault may be due."""
        self._given += tokens
        if self.fault is not None and self._given >= self.fault.after and self.fault.kind != "half_frame":
            await self._happen(self.fault, b"")

    def _due(self, pending: int) -> bool:
        """Whether the fault's token is reached, so that it is the last that is handed out."""
        return self.fault is not None and self._given + pending == self.fault.after

    async def frame(self, event: bytes) -> None:
        """One event as one chunk, or half of it when that is the fault."""
        whole = b"%x\r\n%s\r\n" % (len(event), event)
        fault = self.fault
        if fault is not None and fault.kind == "half_frame" and self._given >= fault.after:
            await self._happen(fault, whole[: len(whole) // 2])
        await self.send(whole)

    async def hang_up(self) -> None:
        """End the connection after a proper answer, unannounced."""
        self._writer.close()
        raise Died

    async def token(self, *, heeds_the_client: bool = True) -> None:
        """One more token is made. Raises `Died` when the client left and that matters."""
        await self._state.pace()
        if heeds_the_client and self._request.gone.is_set():
            raise ClientLeft
        self._state.counters.generated += 1

    async def _happen(self, fault: Fault, parting: bytes) -> None:
        if fault.kind == "error_event":
            body = error_body("EngineCore encountered an issue. See stack trace for the root cause.", code=500)
            await self.send(_chunk(b"data: " + body + b"\n\n") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            raise Died
        if fault.kind == "hang":
            await self._request.gone.wait()
            raise ClientLeft
        if fault.kind == "garbage":
            parting = b"this is no chunk\r\n"
        await self.send(parting)
        if fault.kind == "close":
            self._writer.close()
        else:
            await asyncio.sleep(0)  # what was written must leave before the reset that would overtake it
            linger_zero = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            self._writer.transport.abort()
        raise Died


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def error_body(message: str, *, code: int, kind: str = "InternalServerError", param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def compact(value: object) -> bytes:
    """JSON as pydantic writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def render(status: int, body: bytes, *, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nserver: uvicorn\r\ncontent-length: {len(body)}\r\ncontent-type: {kind}\r\n\r\n"
    return head.encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


class ToyEngine(ScriptedEngine):
    """Serves a dialect: a handler of parsed requests, made from `state`."""

    def __init__(self, dialect: Callable[[EngineState], Dialect], **settings: Any) -> None:
        super().__init__()
        self.state = EngineState(**settings)
        self._dialect = dialect(self.state)
        self.script = self._serve_one

    @property
    def counters(self) -> Counters:
        return self.state.counters

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the requests to `path` so far."""
        return [json.loads(seen.body) for seen in self.requests if seen.head.split(b" ", 2)[1] == path.encode()]

    async def _serve_one(self, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        method, path, _ = request.head.split(b" ", 2)
        if not self.state.started:
            writer.write(render(503, error_body("starting", code=503)))
            return
        if method == b"GET":
            writer.write(self._dialect.get(path.decode()))
            return
        try:
            await self._generate(path.decode(), request, writer)
        except Died:
            raise ConnectionError from None

    async def _generate(self, path: str, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        body = json.loads(request.body)
        whole = self._dialect.post(path, body)
        if whole is not None:
            writer.write(whole)
            return
        answer = Answer(self.state, request, writer)
        self.counters.answers += 1
        self.counters.active += 1
        try:
            if not await answer.fail_at_once():
                await self._dialect.generate(path, body, answer)
        except ClientLeft:
            self.counters.aborted += 1
            raise
        finally:
            self.counters.active -= 1


class Dialect(ABC):
    """How an engine speaks."""

    def __init__(self, state: EngineState) -> None:
        self.state = state
        self.answers = 0

    def number(self) -> int:
        """Counts answers of this engine, for ids and for sampling."""
        self.answers += 1
        return self.answers

    @abstractmethod
    def get(self, path: str) -> bytes:
        """The answer to a read."""

    @abstractmethod
    def post(self, path: str, body: dict[str, Any]) -> bytes | None:
        """The answer to what generates nothing; None where `generate` writes it."""

    @abstractmethod
    async def generate(self, path: str, body: dict[str, Any], answer: Answer) -> None:
        """Write the answer."""


def joined(steps: list[Step]) -> tuple[str, list[int], Step]:
    """Text, ids and last step of an event."""
    return "".join(step.text for step in steps), [step.token for step in steps], steps[-1]
