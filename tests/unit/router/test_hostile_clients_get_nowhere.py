"""Fuzz, smuggling, slow and half-closed clients, no crash, no leak, and other clients are served."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_router.core.request import RequestLimits, RequestReader
from mica_router.core.response import ResponseReader

from .conftest import CHAT, Bench, post, settle, within
from .spoiling import spoilt

LIMITS = RequestLimits(head=4096, body=65536)
SEEDS = [
    post(CHAT),
    b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil the end",
]


STRANGE = [*(bytes([byte]) for byte in b"\r\n\0 :;,0aZ\xff"), b"\r\n", b"\r\n ", b"\n\n", b"\0\0"]


def mutate(seed: bytes, random: Random) -> bytes:
    return spoilt(seed, random, inserts=STRANGE, longest_cut=5, copied=SEEDS + ANSWERS)


def feed_in_parts(reader: RequestReader | ResponseReader, data: bytes, random: Random) -> None:
    start = 0
    while start < len(data):
        end = start + random.randrange(1, 60)
        reader.feed(data[start:end])
        start = end


def fuzz(rounds: int, seed: int) -> None:
    random = Random(seed)
    for _ in range(rounds):
        request = RequestReader(LIMITS)
        feed_in_parts(request, mutate(random.choice(SEEDS), random), random)
        assert request.buffered <= LIMITS.head + LIMITS.body + 65536
        response = ResponseReader()
        feed_in_parts(response, mutate(random.choice(ANSWERS), random), random)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_readers_survive_what_is_almost_http(seed: int) -> None:
    fuzz(30, seed)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_readers_survive_a_million_bytes_of_what_is_almost_http() -> None:
    fuzz(200_000, 1)


@pytest.mark.parametrize(
    "attack",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/admin HTTP/1.1\r\nHost: r\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\nabcd",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 0x5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n",
        b"X: a\r\n b: folded\r\nContent-Length: 0\r\n\r\n",
        b"X: a\nContent-Length: 0\r\n\r\n",
        b"X: \x00\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_two_readers_could_read_in_two_ways_is_refused(bench: Bench, attack: bytes) -> None:
    engine = await bench.engine()
    bench.route(engine)
    answer = await bench.ask(b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\n" + attack)
    assert answer.status in (400, 413)
    assert answer.header("connection") == "close"
    assert not engine.requests


async def test_a_megabyte_of_headers_is_refused_without_being_kept(bench: Bench) -> None:
    client = await bench.client()
    client.send(b"POST /v1/x HTTP/1.1\r\nHost: r\r\n" + b"X-Filler: " + b"x" * 2**20)
    assert (await client.response()).status == 431
    assert bench.context.budget.held < 65536


async def test_a_client_that_trickles_is_ended_and_another_is_served_meanwhile(bench: Bench) -> None:
    bench.route(await bench.engine())
    slow = await bench.client()
    for byte in b"POST /v1/x HT":
        slow.send(bytes([byte]))
        await settle()
        bench.pass_time(0.9)
    assert (await bench.ask(post(CHAT))).status == 200
    assert (await slow.response()).status == 408


async def test_a_client_that_closes_its_half_is_a_client_that_left(bench: Bench) -> None:
    engine = await bench.engine()

    async def never(request: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    engine.script = never
    bench.route(engine)
    client = await bench.client()
    client.send(post(CHAT))
    request = await within(engine.arrived.get())
    client.writer.write_eof()
    await within(request.gone.wait())
