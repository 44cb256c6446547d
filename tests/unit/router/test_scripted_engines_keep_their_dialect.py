"""The engines that other tests trust: what they say is what vLLM and llama.cpp say, and they fail where they are told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from .conftest import RawClient, content_length, eventually, post, within
from .engines.llamacpp_dialect import llamacpp_engine
from .engines.toy_engine import Fault, FaultKind, ToyEngine
from .engines.toy_model import BOS, DetokenizerStream, byte_id, decode, encode
from .engines.vllm_dialect import vllm_engine

START = {"model": "toy", "temperature": 0, "stream": True}
CHAT = START | {"messages": [{"role": "user", "content": "Grüße"}]}
COMPLETION = START | {"prompt": "Grüße"}
IDS = {"return_token_ids": True, "stream_options": {"include_usage": True}}

Started = Callable[[ToyEngine], Awaitable[ToyEngine]]


@pytest.fixture
async def started() -> AsyncIterator[Started]:
    engines: list[ToyEngine] = []

    async def start(engine: ToyEngine) -> ToyEngine:
        await engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        await engine.stop()


async def connect(engine: ToyEngine) -> RawClient:
    return RawClient(*await asyncio.open_connection(engine.endpoint.host, engine.endpoint.port))


async def ask(engine: ToyEngine, path: str, body: dict[str, Any]) -> bytes:
    """Everything until the end of the answer or of the connection, without the head."""
    client = await connect(engine)
    try:
        return await read_answer(client, post(json.dumps(body).encode(), path=path))
    finally:
        client.hang_up()


async def read_answer(client: RawClient, request: bytes) -> bytes:
    client.send(request)
    head = await within(client.reader.readuntil(b"\r\n\r\n"))
    if b"content-length" in head.lower():
        return await within(client.reader.readexactly(content_length(head)))
    rest = b""
    try:
        while not rest.endswith(b"0\r\n\r\n"):
            more = await within(client.reader.read(65536))
            if not more:
                break
            rest += more
    except ConnectionError:
        pass
    return rest


def events(stream: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


async def test_vllm_chat_events_have_its_fields_in_its_order(started: Started) -> None:
    engine = await started(vllm_engine())
    first, second, *_, last, usage = events(await ask(engine, "/v1/chat/completions", CHAT | IDS | {"max_tokens": 4}))
    assert list(first) == ["id", "object", "created", "model", "choices", "prompt_token_ids", "prompt_text"]
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert decode(first["prompt_token_ids"]) == "<|user|>Grüße<|end|><|assistant|>"
    assert list(second["choices"][0]) == ["index", "delta", "logprobs", "finish_reason", "token_ids"]
    assert list(last["choices"][0]) == ["index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids"]
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    prompt = len(first["prompt_token_ids"])
    assert usage["usage"] == {"prompt_tokens": prompt, "total_tokens": prompt + 4, "completion_tokens": 4}


async def test_vllm_completion_events_carry_prompt_ids_once(started: Started) -> None:
    engine = await started(vllm_engine())
    first, second, *_ = events(await ask(engine, "/v1/completions", COMPLETION | IDS))
    assert list(first["choices"][0]) == [
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids")
    ]
    assert first["choices"][0]["prompt_token_ids"] == encode("Grüße")
    assert second["choices"][0]["prompt_token_ids"] is None


async def test_without_being_asked_vllm_sends_null_for_ids(started: Started) -> None:
    engine = await started(vllm_engine())
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)):
        said = events(await ask(engine, path, body | {"max_tokens": 3}))
        assert [choice["token_ids"] for event in said for choice in event["choices"] if "token_ids" in choice] == [None] * 3
        assert all("usage" not in event for event in said)


@pytest.mark.parametrize("merge", [(1,), (4,), (1, 3, 2)])
async def test_ids_continue_an_answer_exactly_where_a_character_is_whole(started: Started, merge: tuple[int, ...]) -> None:
    engine = await started(vllm_engine(merge=merge))
    body = COMPLETION | IDS | {"max_tokens": 60, "ignore_eos": True}
    said = [event["choices"][0] for event in events(await ask(engine, "/v1/completions", body))[:-1]]
    prompt, text = said[0]["prompt_token_ids"], "".join(choice["text"] for choice in said)
    ids = [token for choice in said for token in choice["token_ids"]]
    leaks = 0
    for cut in range(1, 60):
        rest = events(await ask(engine, "/v1/completions", body | {"prompt": prompt + ids[:cut], "max_tokens": 60 - cut}))
        continued = "".join(event["choices"][0]["text"] for event in rest[:-1])
        before = decode(ids[:cut])
        if before.endswith("\ufffd"):
            leaks += continued.startswith("Grüße")
        else:
            assert before + continued == text
    assert leaks > 5


def test_a_prompt_that_ends_inside_a_character_leaks() -> None:
    prompt = [BOS, *encode("Hi "), byte_id(0xC3)]
    assert DetokenizerStream(prompt).step(byte_id(0xBC)) == "Hi ü"
    assert DetokenizerStream([BOS, *encode("Hi ")]).step(byte_id(0xC3)) == ""


async def test_stop_strings_are_held_back_and_cut(started: Started) -> None:
    engine = await started(vllm_engine())
    body = COMPLETION | {"max_tokens": 80, "ignore_eos": True}
    text = "".join(event["choices"][0]["text"] for event in events(await ask(engine, "/v1/completions", body)))
    stop = text[20:26]
    said = events(await ask(engine, "/v1/completions", body | {"stop": [stop]}))
    assert "".join(event["choices"][0]["text"] for event in said) == text[: text.index(stop)]
    assert said[-1]["choices"][0]["stop_reason"] == stop
    assert said[0]["choices"][0]["text"] == ""


async def test_llamacpp_events_and_answers_have_its_fields(started: Started) -> None:
    engine = await started(llamacpp_engine())
    role, piece, *_, last, usage = events(
        await ask(
            engine,
            "/v1/chat/completions",
            CHAT | {"max_tokens": 9, "ignore_eos": True, "stream_options": {"include_usage": True}},
        )
    )
    assert list(role) == ["choices", "created", "model", "system_fingerprint", "object", "id"]
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert list(piece["choices"][0]) == ["finish_reason", "index", "delta"]
    assert last["choices"][0] == {"finish_reason": "length", "index": 0, "delta": {}}
    assert usage["usage"]["completion_tokens"] == 9
    whole = json.loads(await ask(engine, "/v1/completions", COMPLETION | {"stream": False, "max_tokens": 9}))
    streamed = events(await ask(engine, "/v1/completions", COMPLETION | {"max_tokens": 9}))
    assert whole["choices"][0]["text"] == "".join(event["choices"][0]["text"] for event in streamed)


async def test_llamacpp_heeds_a_client_that_leaves_only_when_it_streams(started: Started) -> None:
    engine = await started(llamacpp_engine())
    for stream in (True, False):
        client = await connect(engine)
        client.send(
            post(
                json.dumps(COMPLETION | {"stream": stream, "max_tokens": 900, "ignore_eos": True}).encode(),
                path="/v1/completions",
            )
        )
        await eventually(lambda: engine.counters.active == 1)
        before = engine.counters.generated
        client.hang_up()
        await eventually(lambda: engine.counters.active == 0)
        assert (engine.counters.generated - before < 800) is stream
    assert engine.counters.aborted == 1


@pytest.mark.parametrize("make", [vllm_engine, llamacpp_engine])
@pytest.mark.parametrize("kind", ["reset", "close", "half_frame", "garbage"])
async def test_an_engine_dies_after_the_token_it_is_told(
    started: Started, make: Callable[[], ToyEngine], kind: FaultKind
) -> None:
    engine = await started(make())
    engine.state.faults.append(Fault(kind, after=5))
    stream = await ask(engine, "/v1/completions", COMPLETION | IDS | {"max_tokens": 9, "ignore_eos": True})
    whole, _, rest = stream.rpartition(b"\n\n\r\n")
    tokens = sum(len(json.loads(line[6:])["choices"][0].get("token_ids", ())) for line in whole.split(b"\n") if b"data" in line)
    assert tokens == (5 if make is vllm_engine else 0)
    assert not stream.endswith(b"0\r\n\r\n")
    assert (rest.count(b"data: ") == 1) is (kind == "half_frame")
    assert (await ask(engine, "/v1/completions", COMPLETION | {"max_tokens": 9})).endswith(b"0\r\n\r\n")


async def test_an_engine_that_is_told_to_refuse_refuses_once(started: Started) -> None:
    engine = await started(vllm_engine())
    engine.state.faults.append(Fault("status", status=500))
    assert b"not well" in await ask(engine, "/v1/completions", COMPLETION)
    assert b"[DONE]" in await ask(engine, "/v1/completions", COMPLETION)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 0}, b"max_tokens must be at least 1"),
        ({"model": "other"}, b"does not exist"),
        ({"max_tokens": 9, "min_tokens": 10}, b"min_tokens must be"),
        ({"max_tokens": 5000}, b"maximum context length"),
    ],
)
async def test_vllm_refuses_what_the_real_one_refuses(started: Started, change: dict[str, Any], words: bytes) -> None:
    engine = await started(vllm_engine())
    assert words in await ask(engine, "/v1/completions", COMPLETION | change)
