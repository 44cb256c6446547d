"""The engine of `mica run --demo`: the same ids lead to the same words, in every engine."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from mica_cli.standalone.demo_engine import Chain, Connection, Engine, understand

CHAIN = Chain()


@asynccontextmanager
async def running(engine):
    server = await asyncio.start_server(lambda r, w: Connection(engine, r, w).serve(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(port, path, content):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(content).encode()
    writer.write(b"POST %s HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    if b"chunked" in head:
        answer = (await reader.readuntil(b"0\r\n\r\n")).decode()
        lines = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        result = [json.loads(line) for line in lines[:-1]]
    else:
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        result = json.loads(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return result


async def until(condition):
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("never")


async def test_a_continuation_by_ids_says_what_would_have_been_said():
    async with running(Engine(0.0)) as port:
        chat = {"messages": [{"role": "user", "content": "What is a slice?"}], "max_tokens": 30}
        whole = await ask(port, "/v1/chat/completions", chat | {"stream": True, "return_token_ids": True})
        prompt = whole[0]["prompt_token_ids"]
        ids = [event["choices"][0]["token_ids"][0] for event in whole[1:]]
        for cut in (0, 1, 17, 29):
            rest = await ask(port, "/v1/completions", {"prompt": [prompt + ids[:cut]], "max_tokens": 30 - cut})
            assert rest["choices"][0]["text"] == CHAIN.decode(ids[cut:])
        told = "".join(event["choices"][0]["delta"]["content"] for event in whole)
        assert (await ask(port, "/v1/chat/completions", chat))["choices"][0]["message"]["content"] == told == CHAIN.decode(ids)


async def test_usage_is_told_where_it_is_asked_for():
    async with running(Engine(0.0)) as port:
        stream = {"prompt": "one two", "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
        events = await ask(port, "/v1/completions", stream)
        assert events[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


async def test_an_engine_stops_when_its_client_leaves():
    engine = Engine(0.001)
    async with running(engine) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"prompt": "a", "max_tokens": 4000}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await until(lambda: engine.generated)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not engine.running)
        assert 0 < engine.generated < 4000


@pytest.mark.parametrize(
    "body", [{}, {"prompt": 3}, {"prompt": ["a"]}, {"prompt": [[10**6]]}, {"prompt": "a", "max_tokens": 10**9}]
)
def test_what_the_engine_cannot_do_is_said(body):
    with pytest.raises(ValueError, match=r"messages or prompt|max_tokens"):
        understand("/v1/completions", body, CHAIN)
