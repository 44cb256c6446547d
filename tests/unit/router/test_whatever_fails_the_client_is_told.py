"""Faults that nobody foresaw, on every step of a request: the client gets an error in OpenAI's shape and every count returns."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
from collections.abc import Sequence
from hashlib import sha256

import pytest

from mica_router.core.choice import Hold, LoadView, Pick, Relay
from mica_router.core.continuation import Ask, Continuation, Ended, Handling, NotResumed
from mica_router.core.dispatch import dispatch
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.features import Features
from mica_router.core.policies import PolicyChooser
from mica_router.core.request import RequestReader
from mica_router.core.routing import Routing
from mica_router.metrics import ModelDemand
from mica_router.probing import Prober
from mica_router.relay.connection import ClientConnection
from mica_router.relay.delivery import Delivery
from mica_router.relay.mending import Mending
from mica_router.relay.pool import Pool
from mica_router.relay.search import Search
from mica_router.relay.side_call import SideCalls
from mica_router.relay.upstream import UpstreamConnection

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, ManualClock, RawResponse, eventually, post, settle, within

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = b'{"model": "chat", "stream": true}'


def code(answer: RawResponse) -> str:
    found = json.loads(answer.body)["error"]["code"]
    assert isinstance(found, str)
    return found


def nothing_is_left(bench: Bench) -> None:
    context = bench.context
    assert context.load.demand(context.table) == {"chat": ModelDemand(in_flight=0, queued=0)}
    assert context.budget.held == 0
    assert all(context.load.in_flight(endpoint) == 0 for endpoint in context.table.endpoints())


class FailingPool(Pool):
    """Makes no connection: fails as it is told, or hands out one that has ended already."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(clock=ManualClock())
        self.error = error

    async def connect(self, endpoint: Endpoint, *, deadline: float) -> UpstreamConnection:
        if self.error is not None:
            raise self.error
        connection = UpstreamConnection(endpoint)
        connection.connection_lost(None)
        return connection


FAULTS = [
    None,
    ValueError("embedded null byte"),
    OverflowError("port must be 0-65535"),
    RuntimeError("the handler is closed"),
    ConnectionResetError(104, "reset"),
    ssl.SSLCertVerificationError(1, "wrong name"),
    UnicodeError("label too long"),
    TimeoutError(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_connection_that_cannot_be_made_is_told(bench: Bench, fault: Exception | None) -> None:
    bench.route(await bench.engine())
    bench.context.pool = FailingPool(fault)
    answer = await bench.ask(post(CHAT))
    assert (answer.status, code(answer)) == (503, "engine_unreachable")
    nothing_is_left(bench)


async def test_what_the_router_lacks_is_no_fault_of_engines(bench: Bench) -> None:
    bench.route(await bench.engine(), await bench.engine())
    bench.context.pool = FailingPool(OSError(errno.EMFILE, "too many open files"))
    assert (await bench.ask(post(CHAT))).status == 503
    assert bench.context.load.fitness == {}
    assert bench.context.metrics.upstream_errors == {("chat", "exhausted"): 2}
    nothing_is_left(bench)


class FailingChooser(PolicyChooser):
    """Chooses `good` times, and fails then. Never finds anybody for a stream that broke."""

    def __init__(self, *, good: int) -> None:
        self.good = good

    def choose(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold:
        self.good -= 1
        if self.good < 0:
            raise LookupError("a fault of the chooser")
        return super().choose(features, candidates=candidates, load=load)

    def choose_to_resume(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold:
        raise LookupError("a fault of the chooser")

    def choose_to_relay(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Relay | Hold:
        raise LookupError("a fault of the chooser")


async def test_a_request_that_cannot_be_placed_is_told_and_the_next_one_is_served(bench: Bench) -> None:
    bench.route(await bench.engine())
    bench.context.chooser = FailingChooser(good=0)
    client = await bench.client()
    client.send(post(CHAT))
    answer = await client.response()
    assert (answer.status, code(answer)) == (500, "internal_error")
    nothing_is_left(bench)
    bench.context.chooser = PolicyChooser()
    client.send(post(CHAT))
    assert (await client.response()).status == 200


async def test_a_request_that_is_lost_between_two_engines_is_told_by_the_next_sweep(bench: Bench) -> None:
    async def no(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    engines = [await bench.engine(), await bench.engine()]
    for engine in engines:
        engine.script = no
    bench.route(*engines)
    bench.context.chooser = FailingChooser(good=1)
    client = await bench.client()
    client.send(post(CHAT))
    await within(engines[0].arrived.get() if engines[0].requests else _first(engines[0].arrived, engines[1].arrived))
    for _ in range(20):
        await settle()
        await asyncio.sleep(0.001)
        bench.pass_time(0)
    answer = await client.response()
    assert (answer.status, code(answer)) == (500, "internal_error")
    nothing_is_left(bench)


async def test_a_held_request_that_cannot_be_placed_is_told(bench: Bench) -> None:
    bench.route()
    client = await bench.client()
    client.send(post(CHAT))
    await eventually(lambda: len(bench.context.load.waiting) == 1)
    bench.context.chooser = FailingChooser(good=0)
    bench.route(await bench.engine())
    answer = await client.response()
    assert (answer.status, code(answer)) == (500, "internal_error")
    nothing_is_left(bench)
    assert len(bench.context.load.waiting) == 0


async def _first(*queues: asyncio.Queue[EngineRequest]) -> None:
    tasks = [asyncio.ensure_future(queue.get()) for queue in queues]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


class Recorded:
    """A recording whose stream may go on anywhere, or that fails."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def heard(self, data: bytes) -> bool:
        return False

    async def resume(self, engine: Engine, ask: Ask, *, leg: int | None = None) -> Continuation | Ended | NotResumed:
        if self.error is not None:
            raise self.error
        return Continuation(b"/v1/completions", b"{}", lambda engine: True, _Nothing())

    def close(self) -> None:
        pass


class _Nothing:
    def head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        return None

    def late_head(self) -> None:
        return None

    def feed(self, body: bytes) -> bytes:
        return body

    def finish(self) -> bytes:
        return b""


class Recording:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def open(self, features: Features, engine: Engine) -> Handling:
        return Handling(recording=Recorded(self.error))

    def open_leg(self, features: Features, engine: Engine, *, tokens: int) -> Handling:
        return Handling(recording=Recorded(self.error))


@pytest.mark.parametrize("fault", [None, ValueError("a fault of the book"), LookupError("another")], ids=repr)
async def test_a_stream_that_cannot_be_mended_ends_with_an_error_event(bench: Bench, fault: Exception | None) -> None:
    async def die(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        writer.transport.abort()

    engines = [await bench.engine(), await bench.engine()]
    for engine in engines:
        engine.script = die
    bench.route(*engines)
    bench.context.book = Recording(fault)
    bench.context.chooser = FailingChooser(good=1)
    answer = await bench.ask(post(STREAM))
    assert b"data: [DONE]" in answer.body
    assert b"engine_lost" in answer.body
    assert bench.context.metrics.resume_refusals == {("chat", "error"): 1}
    nothing_is_left(bench)


class Owner:
    """Of a mending that is cancelled before it has begun: is told nothing."""

    def mending_tries(self, engine: Engine, continuation: Continuation) -> None:
        raise AssertionError(engine)

    def mending_ends(self, payload: bytes) -> None:
        raise AssertionError(payload)

    def mending_fails(self, reason: str) -> None:
        raise AssertionError(reason)


async def test_a_client_that_leaves_as_its_stream_breaks_leaves_nothing_unawaited(bench: Bench) -> None:
    bench.route(await bench.engine())
    context = bench.context
    request = RequestReader(context.limits).feed(post(STREAM))[0]
    features = dispatch(request, context.table)
    assert isinstance(features, Features)
    delivery = Delivery(ClientConnection(context), request, keep_alive=True)
    search = Search(context, features)
    mending = Mending(context, Owner(), model="chat", search=search, delivery=delivery, recording=Recorded(None))
    mending.start(features.route.service.engines[0], "reset")
    mending.cancel()
    await settle()
    assert not mending.asking


class Failing(ClientConnection):
    def check(self, now: float) -> None:
        raise LookupError("a fault")


async def test_a_connection_that_fails_at_a_sweep_does_not_end_the_deadlines_of_others(bench: Bench) -> None:
    engine = await bench.engine()

    async def hang(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await request.gone.wait()

    engine.script = hang
    bench.route(engine)
    bench.context.connections.add(Failing(bench.context))
    client = await bench.client()
    client.send(post(CHAT))
    await within(engine.arrived.get())
    bench.context.connections.add(Failing(bench.context))
    bench.pass_time(601)
    assert (await client.response()).status == 504
    bench.context.connections.clear()


async def test_an_engine_that_cannot_be_probed_at_all_does_not_end_the_probes(bench: Bench) -> None:
    found = []
    endpoints = [Endpoint("e", 1), Endpoint("e", 70000)]
    prober = Prober(
        SideCalls(FailingPool(OverflowError("port must be 0-65535"))),
        endpoints=lambda: endpoints,
        found=lambda endpoint, alive: found.append((endpoint, alive)),
        interval=1,
        deadline=1,
    )
    await within(prober.round())
    assert sorted(found) == [(endpoint, False) for endpoint in endpoints]


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip", b"identity", b"deflate\r\nTransfer-Encoding: chunked"])
async def test_an_answer_in_another_transfer_coding_is_refused_in_words(bench: Bench, coding: bytes) -> None:
    async def coded(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n3\r\none\r\n0\r\n\r\n" % coding)
        await writer.drain()
        writer.transport.close()

    engine = await bench.engine()
    engine.script = coded
    bench.route(engine)
    answer = await bench.ask(post(CHAT))
    assert (answer.status, code(answer)) == (502, "engine_protocol_error")
    assert b"transfer coding" in answer.body
    nothing_is_left(bench)


async def test_a_compressed_answer_passes_as_it_is(bench: Bench) -> None:
    async def coded(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        assert b"accept-encoding: gzip" in request.head.lower()
        writer.write(OK_RESPONSE.replace(b"Content-Length", b"Content-Encoding: gzip\r\nContent-Length"))

    engine = await bench.engine()
    engine.script = coded
    bench.route(engine)
    answer = await bench.ask(post(CHAT, path="/v1/embeddings", headers=b"Accept-Encoding: gzip\r\n"))
    assert (answer.status, answer.header("content-encoding")) == (200, "gzip")


@pytest.mark.parametrize("api_keys", [(), (sha256(b"a-key").digest(),)])
async def test_an_engine_may_not_compress_what_the_client_may_have_to_be_told_in(
    bench: Bench, api_keys: tuple[bytes, ...]
) -> None:
    """OpenAI's clients accept compression with every request, also of streams."""

    async def die(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        coding = b"Content-Encoding: gzip\r\n" if b"gzip" in request.head.lower() else b""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%bTransfer-Encoding: chunked\r\n\r\n" % coding)
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        writer.transport.close()

    engine = await bench.engine()
    engine.script = die
    bench.route(engine, routing=Routing(api_keys=api_keys))
    body = b'{"model": "chat", "messages": [], "stream": true, "temperature": 0}'
    headers = b"accept-encoding: gzip, deflate\r\nX-Kept: 1\r\nAuthorization: Bearer a-key\r\n"
    answer = await bench.ask(post(body, headers=headers))
    assert b"engine_lost" in answer.body
    assert b"x-kept: 1" in engine.requests[0].head.lower()


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"deflate\r\nTransfer-Encoding: chunked"])
async def test_a_request_in_another_transfer_coding_is_not_understood(bench: Bench, coding: bytes) -> None:
    engine = await bench.engine()
    bench.route(engine)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: %b\r\n\r\n" % coding
    answer = await bench.ask(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT))
    assert (answer.status, code(answer)) == (501, "transfer_coding_unsupported")
    assert not engine.requests


async def test_a_compressed_body_is_refused_in_words(bench: Bench) -> None:
    engine = await bench.engine()
    bench.route(engine)
    for target in ("/v1/chat/completions", "/models/team-a/chat/v1/chat/completions"):
        answer = await bench.ask(post(b"\x1f\x8b\x08\x00not read", path=target, headers=b"Content-Encoding: gzip\r\n"))
        assert (answer.status, code(answer)) == (415, "content_encoding_unsupported")
    assert not engine.requests
