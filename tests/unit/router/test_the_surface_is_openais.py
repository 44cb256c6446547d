"""Names, keys, methods and uploads, as OpenAI's clients use them."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from hashlib import sha256

import pytest

from mica_router.core.dispatch import dispatch
from mica_router.core.engines import Engine
from mica_router.core.request import Request
from mica_router.core.routes import EMPTY_TABLE, Service, ServiceKey, build_table
from mica_router.core.routing import Routing

from .conftest import CHAT, Bench, RawResponse, ScriptedEngine, post

KEY = "sk-0123456789abcdef"
LOCKED = Routing(api_keys=(sha256(b"another").digest(), sha256(KEY.encode()).digest()))


def code_of(answer: RawResponse) -> str:
    code: str = json.loads(answer.body)["error"]["code"]
    return code


async def named(bench: Bench) -> ScriptedEngine:
    engine = await bench.engine()
    service = Service(
        key=ServiceKey("team-a", "chat"),
        model="org/chat-7b",
        engines=(Engine(endpoint=engine.endpoint),),
        aliases=("gpt-4",),
        adapters=("sql",),
    )
    bench.server.publish(build_table([service]))
    return engine


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("org/chat-7b", "org/chat-7b"),
        ("gpt-4", "org/chat-7b"),
        ("team-a/chat", "org/chat-7b"),
        ("sql", "sql"),
        ("team-a/chat/sql", "sql"),
    ],
)
async def test_engines_are_told_the_name_that_they_know(bench: Bench, asked: str, told: str) -> None:
    engine = await named(bench)
    answer = await bench.ask(post(json.dumps({"model": asked, "messages": []}).encode()))
    assert answer.status == 200
    assert json.loads(engine.requests[0].body)["model"] == told


async def test_an_adapter_is_a_model_with_a_parent(bench: Bench) -> None:
    await named(bench)
    answer = await bench.ask(b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n")
    listed = {entry["id"]: entry.get("parent") for entry in json.loads(answer.body)["data"]}
    assert listed == {"org/chat-7b": None, "sql": "org/chat-7b"}


async def test_a_model_that_is_scaled_to_zero_is_listed(bench: Bench) -> None:
    bench.route()
    answer = await bench.ask(b"GET /v1/models/chat HTTP/1.1\r\nHost: r\r\n\r\n")
    assert json.loads(answer.body)["id"] == "chat"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/rerank", "/models/team-a/chat/v1/completions"])
async def test_get_is_not_allowed_where_post_is_meant(bench: Bench, path: str) -> None:
    bench.route(await bench.engine())
    answer = await bench.ask(b"GET %s HTTP/1.1\r\nHost: r\r\n\r\n" % path.encode())
    assert (answer.status, answer.header("allow"), code_of(answer)) == (405, "POST", "method_not_allowed")


async def test_models_are_only_read(bench: Bench) -> None:
    answer = await bench.ask(post(b"{}", path="/v1/models"))
    assert (answer.status, answer.header("allow")) == (405, "GET")


@pytest.mark.parametrize(
    "headers",
    [b"", b"Authorization: Bearer wrong\r\n", b"Authorization: Basic " + KEY.encode() + b"\r\n", b"x-api-key: wrong\r\n"],
)
async def test_a_wrong_key_is_refused_without_asking_an_engine(bench: Bench, headers: bytes) -> None:
    engine = await bench.engine()
    bench.route(engine, routing=LOCKED)
    answer = await bench.ask(post(CHAT, headers=headers))
    assert (answer.status, answer.header("www-authenticate"), code_of(answer)) == (401, "Bearer", "invalid_api_key")
    assert not engine.requests
    listed = await bench.ask(b"GET /v1/models HTTP/1.1\r\nHost: r\r\n%s\r\n" % headers)
    assert json.loads(listed.body)["data"] == []


@pytest.mark.parametrize("name", ["Authorization: Bearer ", "authorization: bearer ", "X-Api-Key: "])
async def test_a_right_key_opens_and_is_not_shown_to_the_engine(bench: Bench, name: str) -> None:
    engine = await bench.engine()
    bench.route(engine, routing=LOCKED)
    assert (await bench.ask(post(CHAT, headers=f"{name}{KEY}\r\n".encode()))).status == 200
    assert KEY.encode() not in engine.requests[0].head


async def test_the_key_of_an_engine_that_checks_keys_itself_is_passed_on(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    await bench.ask(post(CHAT, headers=b"Authorization: Bearer mine\r\n"))
    assert b"Authorization: Bearer mine\r\n" in engine.requests[0].head


async def test_an_upload_is_routed_by_the_model_in_its_form(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nchat\r\n--b--\r\n'
    )
    kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
    assert (await bench.ask(post(form, path="/v1/audio/transcriptions", headers=kind))).status == 200
    assert engine.requests[0].body == form
    unknown = await bench.ask(post(form.replace(b"chat", b"nope"), path="/v1/audio/transcriptions", headers=kind))
    assert (unknown.status, code_of(unknown)) == (404, "model_not_found")
    alias = await bench.ask(post(form.replace(b"chat", b"team-a/chat"), path="/v1/audio/transcriptions", headers=kind))
    assert (alias.status, code_of(alias)) == (400, "model_invalid")


async def test_a_trace_is_passed_on_and_begun_where_there_is_none(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    trace = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    await bench.ask(post(CHAT, headers=trace))
    await bench.ask(post(CHAT))
    assert trace in engine.requests[0].head
    begun = [line for line in engine.requests[1].head.split(b"\r\n") if line.startswith(b"traceparent: 00-")]
    assert len(begun) == 1
    assert len(begun[0]) == len(trace) - 2


async def test_json_that_is_called_a_form_is_read_as_json(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    table = bench.context.table
    bench.server.publish(build_table([dataclasses.replace(table.listed[0].service, default=True)]))
    body = b'{"model":"chat","messages":[],"num_decode_tokens":1}'
    assert (await bench.ask(post(body, headers=b"Content-Type: multipart/form-data; boundary=b\r\n"))).status == 200
    assert b"num_decode_tokens" not in engine.requests[0].body


def test_long_targets_are_not_kept() -> None:
    def ask(number: int) -> None:
        target = b"/v1/" + b"x" * 60_000 + b"%d" % number
        dispatch(Request(b"GET", target, [], {}, b"", True, False, 0), EMPTY_TABLE)

    ask(0)
    tracemalloc.start()
    try:
        for number in range(20):
            ask(number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 300_000
