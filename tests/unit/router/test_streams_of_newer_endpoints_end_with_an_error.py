"""Streams of `/v1/responses` and `/v1/messages`, which cannot be resumed: wherever their engine dies, the client is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mica_router.core.engines import Kind
from mica_router.core.resume.book import Book

from .conftest import Bench, EngineRequest, Script, eventually, hang, post, settle, within
from .test_streams_survive_their_engine import read_stream

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
SAID: dict[str, list[dict[str, Any]]] = {
    RESPONSES: [
        {"type": "response.created", "sequence_number": 0, "response": {"id": "r1", "status": "in_progress"}},
        {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "m1", "delta": "wör"},
        {"type": "response.output_text.delta", "sequence_number": 2, "item_id": "m1", "delta": "ld"},
        {"type": "response.completed", "sequence_number": 3, "response": {"id": "r1", "status": "completed"}},
    ],
    MESSAGES: [
        {"type": "message_start", "message": {"id": "m1", "role": "assistant", "content": []}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "wör"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ld"}},
        {"type": "message_stop"},
    ],
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Death = Callable[[EngineRequest, asyncio.StreamWriter], Awaitable[None]]


def events_of(path: str) -> list[bytes]:
    return [f"event: {said['type']}\ndata: {json.dumps(said, ensure_ascii=False)}\n\n".encode() for said in SAID[path]]


def body_of(path: str) -> bytes:
    """The answer in chunks of one event each, without the end of chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events_of(path))


async def reset(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.transport.abort()


async def close(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.close()
    await hang(request, writer)


async def garble(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(b"this is no chunk\r\n")
    await hang(request, writer)


def dying(path: str, *, after: int, death: Death) -> Script:
    """Says so many bytes of its answer, and dies."""

    async def script(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + body_of(path)[:after])
        await settle()  # so that what was said is read before the end of the connection is
        await death(request, writer)

    return script


def asked(path: str) -> dict[str, Any]:
    question = {"input": "Hi"} if path == RESPONSES else {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    return {"model": "chat", "stream": True, "temperature": 0} | question


def told_by(path: str, event: bytes) -> dict[str, Any]:
    """An error as the endpoint's clients see it: those of `/v1/messages` pass over every event that has no name."""
    *name, data = event.split(b"\n")
    told: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
    assert (name, told.get("type")) == (([b"event: error"], "error") if path == MESSAGES else ([], None))
    return told


def assert_told(path: str, payload: bytes, code: str) -> int:
    """Whole events of the answer, then the error, then nothing. Returns how many events of the answer there were."""
    *heard, error, done = payload.removesuffix(b"\n\n").split(b"\n\n")
    assert done == b"data: [DONE]"
    assert [event + b"\n\n" for event in heard] == events_of(path)[: len(heard)]
    told = told_by(path, error)
    assert told["error"]["code"] == code
    assert told["error"]["message"]
    assert told["error"]["type"] == "server_error"
    return len(heard)


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "other"])
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_wherever_the_engine_dies_whole_events_and_an_error_are_what_the_client_gets(
    bench: Bench, path: str, kind: Kind
) -> None:
    bench.context.book = Book(each=1 << 20, together=1 << 24)
    engine = await bench.engine()
    bench.route(engine, kind=kind)
    client = await bench.client()
    body = body_of(path)
    ends = [body.index(event) + len(event) for event in events_of(path)]
    for after in range(1, len(body)):
        engine.script = dying(path, after=after, death=(reset, close)[after % 2])
        heard = assert_told(path, await read_stream(client, path, asked(path)), "engine_lost")
        assert heard == sum(end <= after for end in ends), after
    assert len(engine.requests) == len(body) - 1, "what has begun is not sent again"
    assert bench.context.metrics.resume_refusals == {("chat", "not_text"): len(body) - 1}


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_an_engine_that_garbles_its_answer_is_told_of_too(bench: Bench, path: str) -> None:
    engine = await bench.engine()
    bench.route(engine)
    engine.script = dying(path, after=body_of(path).index(events_of(path)[2]) - len("11\r\n"), death=garble)
    assert assert_told(path, await read_stream(await bench.client(), path, asked(path)), "engine_lost") == 2


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_an_engine_that_falls_silent_is_told_of_at_the_idle_deadline(bench: Bench, path: str) -> None:
    engine = await bench.engine()
    bench.route(engine)
    engine.script = dying(path, after=body_of(path).index(events_of(path)[1]) + 3, death=hang)
    client = await bench.client()
    client.send(post(json.dumps(asked(path)).encode(), path=path))
    begun = await within(client.reader.readuntil(events_of(path)[0]))
    await settle()
    bench.pass_time(301)
    rest = await within(client.reader.readuntil(b"0\r\n\r\n"))
    assert b"event-stream" in begun
    assert events_of(path)[1] not in rest
    assert b'"code":"engine_lost"' in rest and b"data: [DONE]\n\n" in rest
    await within(engine.requests[0].gone.wait())


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_who_was_kept_waiting_by_comments_is_told_what_the_engine_refuses(bench: Bench, path: str) -> None:
    async def refuse(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        said = b'{"type": "error",\n "error": {"message": "too long"}}'
        writer.write(b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))

    engine = await bench.engine()
    engine.script = refuse
    bench.route()
    client = await bench.client()
    client.send(post(json.dumps(asked(path)).encode(), path=path))
    await eventually(lambda: bench.context.load.waiting.lines != {})
    bench.pass_time(10.5)
    await within(client.reader.readuntil(b": waiting for an engine\n\n\r\n"))
    bench.route(engine)
    rest = (await within(client.reader.readuntil(b"0\r\n\r\n"))).partition(b"\r\n")[2]
    error, _, done = rest.partition(b"\n\n")
    assert done == b"data: [DONE]\n\n\r\n0\r\n\r\n"
    *name, data = error.split(b"\n")
    assert name == ([b"event: error"] if path == MESSAGES else [])
    assert json.loads(data.removeprefix(b"data: "))["error"] == {"message": "too long"}
