"""What vLLM's benchmark client and sysHAX's documented `curl` lines put on the wire, and what they make of the answers.

The benchmark client is aiohttp: it streams with `stream_options`, reads events as they arrive, asks `/v1/models` for a name and
`/metrics` for figures that an engine may not have, and begins with one request that is repeated until it succeeds.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import pytest

from mica_router.core.engines import Engine
from mica_router.core.resume.book import Book
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import QueueLimits, Routing

from .conftest import OK_RESPONSE, Bench, EngineRequest, ScriptedEngine, within
from .engines.offline import answer_of
from .engines.rig import payload_of, told
from .engines.toy_engine import EngineState, ToyEngine
from .engines.vllm_dialect import VllmDialect, vllm_engine

BENCHMARK_HEADERS = {"Authorization": "Bearer EMPTY", "x-request-id": "bench-0"}
COMPLETION = {"model": "toy", "repetition_penalty": 1.0, "max_tokens": 24, "logprobs": None, "ignore_eos": True}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Introduce openEuler."}]}]


class Heard(NamedTuple):
    """What the client makes of a stream: text by choice, the last usage, and whether the end mark came."""

    text: str
    usage: dict[str, int] | None
    ended: bool


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=4, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector) as made:
        yield made


@pytest.fixture
async def engine(bench: Bench) -> ToyEngine:
    bench.context.book = Book(each=1 << 20, together=1 << 24)
    toy = vllm_engine()
    await bench.engine(toy)
    bench.route(toy, model="toy", kind="vllm")
    return toy


async def listen(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Heard:
    text, usage, ended, rest = "", None, False, b""
    async with session.post(url, json=body, headers=BENCHMARK_HEADERS) as response:
        assert response.status == 200
        async for piece in response.content.iter_any():
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data: ")
                if data == b"[DONE]":
                    ended = True
                    continue
                said = json.loads(data)
                usage = said.get("usage") or usage
                for choice in said["choices"]:
                    text += (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
    assert rest == b""
    return Heard(text, usage, ended)


async def undisturbed(path: str, body: dict[str, Any]) -> Heard:
    status, frames = await answer_of(VllmDialect(EngineState()), path, body)
    assert status == 200
    whole = told(payload_of(frames))
    return Heard(whole.text, whole.usage[-1], whole.ended)


@pytest.mark.parametrize("temperature", [{}, {"temperature": 0}], ids=["as the engine will", "greedy"])
@pytest.mark.parametrize("prompt", ["Es war einmal", [5, 9, 70], ["Es war einmal"], [[5, 9, 70]]], ids=str)
async def test_completions_of_the_benchmark_stream_to_their_end(
    bench: Bench, engine: ToyEngine, session: aiohttp.ClientSession, prompt: object, temperature: dict[str, int]
) -> None:
    body = COMPLETION | STREAMED | temperature | {"prompt": prompt}
    heard = await within(listen(session, f"http://127.0.0.1:{bench.server.port}/v1/completions", body))
    assert heard.usage is not None
    assert heard.usage["completion_tokens"] == 24
    assert heard.ended
    if temperature:
        assert heard == await undisturbed("/v1/completions", body)
    assert b"x-request-id: bench-0" in engine.requests[0].head.lower()


async def test_chats_of_the_benchmark_stream_to_their_end(
    bench: Bench, engine: ToyEngine, session: aiohttp.ClientSession
) -> None:
    body = {"model": "toy", "messages": PARTS, "max_completion_tokens": 24, "ignore_eos": True, "temperature": 0} | STREAMED
    url = f"http://127.0.0.1:{bench.server.port}/v1/chat/completions"
    heard = [await within(listen(session, url, body)) for _ in range(3)]
    assert heard == [await undisturbed("/v1/chat/completions", body)] * 3


async def test_the_benchmark_finds_the_model_and_does_without_metrics(
    bench: Bench, engine: ToyEngine, session: aiohttp.ClientSession
) -> None:
    base = f"http://127.0.0.1:{bench.server.port}"
    async with session.get(f"{base}/v1/models", headers=BENCHMARK_HEADERS) as response:
        listed = await response.json()
    assert listed["data"][0]["id"] == "toy"
    async with session.get(f"{base}/metrics") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "path_not_found"
    assert (await within(listen(session, f"{base}/v1/completions", COMPLETION | STREAMED | {"prompt": "a"}))).ended


async def test_the_ready_check_fails_in_words_until_an_engine_is_there(bench: Bench, session: aiohttp.ClientSession) -> None:
    bench.route(model="toy", kind="vllm", routing=Routing(queue=QueueLimits(max_requests=0)))
    url = f"http://127.0.0.1:{bench.server.port}/v1/completions"
    body = COMPLETION | STREAMED | {"prompt": "a"}
    async with session.post(url, json=body) as response:
        assert (response.status, response.reason, response.headers["Retry-After"]) == (503, "Service Unavailable", "2")
    toy = vllm_engine()
    await bench.engine(toy)
    bench.route(toy, model="toy", kind="vllm")
    assert (await within(listen(session, url, body))).ended


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "chat", "input": "a", "truncate_prompt_tokens": -1}),
        ("/v1/embeddings", {"model": "chat", "input": ["a", "b"], "encoding_format": "float"}),
        ("/v1/rerank", {"model": "chat", "query": "a", "documents": ["b", "c"]}),
        ("/pooling", {"model": "chat", "input": "a"}),
        ("/tokenize", {"model": "chat", "prompt": "a"}),
    ],
)
async def test_other_benchmarks_reach_the_engine_byte_for_byte(
    bench: Bench, session: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> None:
    engine = await bench.engine()
    bench.route(engine)
    async with session.post(f"http://127.0.0.1:{bench.server.port}{path}", json=body) as response:
        assert response.status == 200
    assert json.loads(engine.requests[0].body) == body


def curl(path: str, body: str) -> bytes:
    """As `curl URL -H 'Content-Type: application/json' -d BODY` sends it: newlines of a `-d` argument stay."""
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 0.0.0.0:8010\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


STREAM = """{
"model": "ds-32b",
"messages": [
{
"role": "user",
"content": "Introduce openEuler."
}
],
"stream": true,
"max_tokens": 1024
}"""
WHOLE = """{
  "model": "/home/gandalf/DeepSeek-R1-Distill-llama-8B-main",
  "messages": [
    {
      "role": "user",
      "content": "红楼梦是什么"
    }
  ]
}"""


async def asked(bench: Bench, data: bytes, *, model: str) -> tuple[ScriptedEngine, int]:
    engine = await bench.engine()
    service = Service(key=ServiceKey("team-a", "chat"), model=model, engines=(Engine(endpoint=engine.endpoint),), default=True)
    bench.server.publish(build_table([service]))
    return engine, (await bench.ask(data)).status


@pytest.mark.parametrize(
    ("body", "model"),
    [(STREAM, "ds-32b"), (WHOLE, "/home/gandalf/DeepSeek-R1-Distill-llama-8B-main")],
    ids=["a stream", "a whole answer"],
)
async def test_the_documented_curl_lines_are_served(bench: Bench, body: str, model: str) -> None:
    engine, status = await asked(bench, curl("/v1/chat/completions", body), model=model)
    assert status == 200
    assert engine.requests[0].body == body.encode()


async def test_the_description_of_the_api_is_the_engines(bench: Bench) -> None:
    engine, status = await asked(bench, b"GET /openapi.json HTTP/1.1\r\nHost: r\r\nAccept: */*\r\n\r\n", model="m")
    assert status == 200
    assert engine.requests[0].head.startswith(b"GET /openapi.json HTTP/1.1\r\n")


async def test_curl_that_waits_for_a_go_ahead_gets_it(bench: Bench) -> None:
    """curl says `Expect: 100-continue` before a body of more than a mebibyte, and waits a second for the answer."""

    async def answer(request: EngineRequest, writer: Any) -> None:
        writer.write(OK_RESPONSE)

    engine = await bench.engine()
    engine.script = answer
    bench.route(engine)
    client = await bench.client()
    body = b'{"model": "chat", "prompt": "%s"}' % (b"x" * 100_000)
    client.send(b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
    assert await within(client.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(body)
    assert (await client.response()).status == 200
