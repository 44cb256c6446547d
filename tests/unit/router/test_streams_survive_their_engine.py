"""Streams through the relay while their engine dies: what the client reads off its connection, against an undisturbed run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from mica_router.core.engines import Kind
from mica_router.core.resume.book import Book
from mica_router.core.routes import build_table

from .conftest import Bench, RawClient, eventually, post, within
from .engines.llamacpp_dialect import llamacpp_engine
from .engines.rig import CHAT, COMPLETIONS, PROMPTS, Told, told
from .engines.toy_engine import EngineState, Fault, FaultKind, ToyEngine
from .engines.vllm_dialect import vllm_engine
from .test_only_greedy_text_streams_are_resumed import REFUSED

USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
async def replicas(bench: Bench) -> AsyncIterator[Callable[..., Any]]:
    """Start engines of one kind behind the relay, which resumes."""
    bench.context.book = Book(each=1 << 20, together=1 << 24)

    async def start(count: int = 2, *, kind: Kind = "vllm", **settings: Any) -> list[ToyEngine]:
        make = vllm_engine if kind == "vllm" else llamacpp_engine
        engines = [make(**settings) for _ in range(count)]
        for engine in engines:
            await bench.engine(engine)
        bench.route(*engines, model="toy", kind=kind)
        return engines

    yield start


def serve_adapters(bench: Bench, *adapters: str) -> None:
    """The engines that are served have these adapters loaded."""
    (route,) = bench.context.table.listed
    bench.server.publish(build_table([replace(route.service, adapters=adapters)]))


def request(path: str, **options: Any) -> dict[str, Any]:
    return {"model": "toy", "stream": True, "temperature": 0, "max_tokens": 60} | PROMPTS[path] | options


async def read_stream(client: RawClient, path: str, body: dict[str, Any]) -> bytes:
    """Payload of a stream, whose framing must be whole to its end; the connection must be fit for another request."""
    client.send(post(json.dumps(body).encode(), path=path))
    response = await client.response()
    assert response.status == 200, response.body
    payload, rest = b"", response.body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        piece, rest = rest[: int(size, 16)], rest[int(size, 16) :]
        assert rest.startswith(b"\r\n")
        payload, rest = payload + piece, rest[2:]
    return payload


def without_ids(heard: Told, body: dict[str, Any]) -> Told:
    """Ids are compared only where the client asked for them; the id of an answer is its engine's."""
    return heard if body.get("return_token_ids") else replace(heard, ids=[])


async def run(client: RawClient, path: str, body: dict[str, Any]) -> Told:
    return without_ids(told(await read_stream(client, path, body)), body)


def recover(bench: Bench) -> None:
    """Let the time of an ejection pass, and that of the slow start behind it."""
    for _ in range(2):
        bench.pass_time(35)


def same_but_for_the_id(one: Told, other: Told) -> bool:
    return replace(one, identities=set()) == replace(other, identities=set())


@pytest.mark.parametrize("kind", ["reset", "close", "half_frame", "error_event", "garbage"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_no_death_shows_in_the_stream(bench: Bench, replicas: Callable[..., Any], path: str, kind: FaultKind) -> None:
    engines = await replicas(merge=(1, 1, 3))
    client = await bench.client()
    body = request(path, ignore_eos=True, **USAGE)
    whole = await run(client, path, body)
    for after in range(1, 61, 3):
        victim = engines[after // 3 % 2]
        victim.state.faults.append(Fault(kind, after=after))
        while victim.state.faults:
            heard = await run(client, path, body)
            assert len(heard.identities) == 1
            assert same_but_for_the_id(heard, whole), (kind, after)
        recover(bench)
    assert bench.context.metrics.resumes["toy"] >= 20
    assert bench.context.metrics.resume_refusals == {}
    assert {code for _, code in bench.context.metrics.requests} == {200}


async def test_stop_strings_and_ids_survive_as_well(bench: Bench, replicas: Callable[..., Any]) -> None:
    engines = await replicas(3, merge=(2, 1, 4))
    client = await bench.client()
    random = Random(5)
    text = (await run(client, COMPLETIONS, request(COMPLETIONS, ignore_eos=True))).text
    for _ in range(25):
        start = random.randrange(10, len(text) - 8)
        body = request(COMPLETIONS, stop=[text[start : start + random.randrange(1, 8)]], return_token_ids=True, **USAGE)
        whole = await run(client, COMPLETIONS, body)
        for engine in engines[:2]:
            engine.state.faults.append(Fault("reset", after=random.randrange(1, 12)))
        while engines[0].state.faults:
            assert same_but_for_the_id(await run(client, COMPLETIONS, body), whole)
        engines[1].state.faults.clear()
        recover(bench)
    assert bench.context.metrics.resumes["toy"] >= 20


async def test_a_hung_engine_is_left_at_the_idle_deadline(bench: Bench, replicas: Callable[..., Any]) -> None:
    engines = await replicas()
    client = await bench.client()
    body = request(CHAT, ignore_eos=True)
    whole = await run(client, CHAT, body)
    for engine in engines:
        engine.state.faults.append(Fault("hang", after=30))
    hung = asyncio.ensure_future(run(client, CHAT, body))
    await eventually(lambda: sum(engine.counters.generated for engine in engines) >= 90)
    for engine in engines:
        engine.state.faults.clear()
    for _ in range(100):
        await asyncio.sleep(0)
    bench.pass_time(301)
    assert same_but_for_the_id(await within(hung), whole)
    assert sum(engine.counters.aborted for engine in engines) == 1


async def test_when_every_engine_is_gone_the_client_is_told(bench: Bench, replicas: Callable[..., Any]) -> None:
    (engine,) = await replicas(1)
    engine.state.faults.append(Fault("reset", after=20))
    client = await bench.client()
    payload = await read_stream(client, CHAT, request(CHAT, ignore_eos=True))
    *_, error, done = payload.strip().split(b"\n\n")
    assert done == b"data: [DONE]"
    assert json.loads(error[6:])["error"]["type"] == "server_error"
    assert bench.context.metrics.resume_refusals == {("toy", "no_engine"): 1}


@pytest.mark.parametrize(
    ("path", "change", "reason"),
    [
        (path, change, reason)
        for path, change, reason in REFUSED
        if path != "/v1/responses" and reason not in ("not_streamed", "malformed")
    ],
)
async def test_every_stream_that_cannot_be_resumed_ends_with_an_error_event(
    bench: Bench, replicas: Callable[..., Any], path: str, change: dict[str, Any], reason: str
) -> None:
    engines = await replicas()
    for engine in engines:
        engine.state.faults.append(Fault("reset", after=4))
    client = await bench.client()
    payload = await read_stream(client, path, request(path, ignore_eos=True) | change)
    *_, error, done = payload.strip().split(b"\n\n")
    assert json.loads(error[6:])["error"]["code"]
    assert done == b"data: [DONE]"
    assert bench.context.metrics.resume_refusals == {("toy", reason): 1}
    assert not any(engine.asked("/detokenize") for engine in engines)


async def test_an_engine_of_another_kind_is_never_gone_on_with(bench: Bench, replicas: Callable[..., Any]) -> None:
    engines = await replicas(2, kind="other")
    for engine in engines:
        engine.state.faults.append(Fault("reset", after=4))
    payload = await read_stream(await bench.client(), CHAT, request(CHAT, ignore_eos=True))
    assert payload.endswith(b"data: [DONE]\n\n")
    assert b'"error"' in payload
    assert bench.context.metrics.resume_refusals == {("toy", "engine_kind"): 1}


@pytest.mark.parametrize("name", ["sql", "team-a/toy/sql"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_adapters_stream_goes_on_where_the_adapter_is(
    bench: Bench, replicas: Callable[..., Any], path: str, name: str
) -> None:
    """One of the engines has lost its adapters, as after a restart: it refuses the name, and another one goes on."""
    engines = await replicas(3, adapters=("sql",))
    serve_adapters(bench, "sql")
    client = await bench.client()
    body = request(path, ignore_eos=True, model=name, **USAGE)
    whole = await run(client, path, body)
    assert whole.text != (await run(client, path, body | {"model": "toy"})).text
    for engine in engines:
        engine.requests.clear()
    for after in range(1, 61, 12):
        victim, forgetful = engines[after % 3], engines[(after + 1) % 3]

        async def forget_meanwhile(forgetful: ToyEngine = forgetful) -> None:
            forgetful.state.adapters = ()
            await asyncio.sleep(0)

        victim.state.pace = forget_meanwhile
        victim.state.faults.append(Fault("reset", after=after))
        while victim.state.faults:
            assert same_but_for_the_id(await run(client, path, body), whole)
        victim.state.pace = EngineState().pace
        forgetful.state.adapters = ("sql",)
        recover(bench)
    assert {json.loads(asked.body)["model"] for engine in engines for asked in engine.requests} == {"sql"}
    metrics = bench.context.metrics
    assert (metrics.resumes[name], metrics.resume_refusals) == (5, {})
    assert metrics.upstream_errors[(name, "status_404")] > 0


async def test_a_client_that_leaves_while_a_stream_is_resumed_leaves_nothing_behind(
    bench: Bench, replicas: Callable[..., Any]
) -> None:
    engines = await replicas()
    for rounds in range(12):
        engines[rounds % 2].state.faults.append(Fault("reset", after=5))
        client = await bench.client()
        client.send(post(json.dumps(request(CHAT, ignore_eos=True, max_tokens=500)).encode(), path=CHAT))
        await within(client.reader.readuntil(b"data: "))
        for _ in range(rounds * 40):
            await asyncio.sleep(0)
        client.hang_up()
        await eventually(lambda: not bench.context.connections)
        recover(bench)
    book = bench.context.book
    assert isinstance(book, Book)
    assert book.shelf.held == 0
    await eventually(lambda: all(engine.counters.active == 0 for engine in engines))
    assert all(bench.context.load.in_flight(engine.endpoint) == 0 for engine in engines)


async def test_a_storm_of_deaths_loses_no_stream_and_no_token(bench: Bench, replicas: Callable[..., Any]) -> None:
    engines = await replicas(4, merge=(1, 2))
    body = request(COMPLETIONS, ignore_eos=True, **USAGE)
    whole = await run(await bench.client(), COMPLETIONS, body)
    random = Random(3)
    kinds: tuple[FaultKind, ...] = ("reset", "close", "half_frame", "error_event", "garbage")
    for _ in range(6):
        victim = random.choice(engines)
        for _ in range(5):
            victim.state.faults.append(Fault(random.choice(kinds), after=random.randrange(0, 60)))
        clients = [await bench.client() for _ in range(10)]
        for heard in await asyncio.gather(*(run(client, COMPLETIONS, body) for client in clients)):
            assert same_but_for_the_id(heard, whole)
        victim.state.faults.clear()
        recover(bench)
    assert bench.context.metrics.resumes["toy"] > 5


async def test_retries_before_the_first_byte_let_go_of_what_they_kept(bench: Bench, replicas: Callable[..., Any]) -> None:
    engines = await replicas(3)
    for engine in engines[:2]:
        engine.state.faults.extend(Fault("status", status=500) for _ in range(3))
    client = await bench.client()
    for _ in range(6):
        assert (await run(client, CHAT, request(CHAT))).ended
    book = bench.context.book
    assert isinstance(book, Book)
    assert book.shelf.held == 0
    assert bench.context.metrics.retries


# llama.cpp.


async def test_a_llamacpp_stream_goes_on_and_says_that_it_is_best_effort(bench: Bench, replicas: Callable[..., Any]) -> None:
    engines = await replicas(kind="llamacpp")
    client = await bench.client()
    engines[0].state.faults.append(Fault("close", after=20))
    while engines[0].state.faults:
        payload = await read_stream(client, CHAT, request(CHAT, ignore_eos=True))
    heard = told(payload)
    assert b": resumed from text, best effort\n\n" in payload
    assert heard.finish == [("length", None)]
    assert heard.ended
    assert len(heard.identities) == 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_client_that_leaves_a_whole_answer_stops_llamacpp(bench: Bench, replicas: Callable[..., Any], path: str) -> None:
    (engine,) = await replicas(1, kind="llamacpp")
    client = await bench.client()
    body = request(path, stream=False, ignore_eos=True, max_tokens=3000)
    client.send(post(json.dumps(body).encode(), path=path))
    await eventually(lambda: engine.counters.generated > 10)
    client.hang_up()
    await eventually(lambda: engine.counters.active == 0)
    assert engine.counters.generated < 1000
    assert engine.counters.aborted == 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_whole_answer_is_whole_and_comes_from_a_second_llamacpp_when_the_first_dies(
    bench: Bench, replicas: Callable[..., Any], path: str
) -> None:
    engines = await replicas(kind="llamacpp")
    client = await bench.client()
    body = request(path, stream=False)
    client.send(post(json.dumps(body).encode(), path=path))
    first = json.loads((await client.response()).body)
    for engine in engines:
        engine.state.faults.append(Fault("reset", after=5))
    dead = await bench.ask(post(json.dumps(body).encode(), path=path))
    assert dead.status == 503
    recover(bench)
    engines[0].state.faults.append(Fault("reset", after=5))
    for _ in range(3):
        answer = await bench.ask(post(json.dumps(body).encode(), path=path))
        assert answer.status == 200
        assert answer.header("content-type") == "application/json; charset=utf-8"
        assert json.loads(answer.body)["choices"] == first["choices"]
        assert json.loads(answer.body)["usage"] == first["usage"]
    assert not engines[0].state.faults
