"""Reads that are a chunk of whole events take a short way through the relay; nobody can tell by what comes out."""

from __future__ import annotations

import asyncio
import json
from typing import cast

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from mica_router.core.chunks import LAST, LONGEST, NOT_WHOLE, OPENINGS, WHOLE, whole_chunks
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.events import END_OF_CHUNKS, Dechunker, chunk
from mica_router.core.resume.book import Book
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.metrics import RouterMetrics
from mica_router.relay.connection import ClientConnection
from mica_router.relay.context import RelayContext, Timeouts
from mica_router.relay.load import Load
from mica_router.relay.pool import Pool
from mica_router.relay.server import RelayServer
from mica_router.relay.upstream import UpstreamConnection

ENGINE = Endpoint("engine", 80)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": True}).encode()
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0


class Rig:
    """A relay between two wires, and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

        def clock() -> float:
            return self.now

        self.book = Book(each=2**20, together=2**20)
        self.context = RelayContext(
            clock=clock,
            load=Load(clock),
            metrics=RouterMetrics(),
            pool=Pool(clock=clock),
            timeouts=Timeouts(idle=10.0),
            book=self.book,
        )
        self.server = RelayServer(self.context)
        service = Service(key=ServiceKey("d", "m"), model="m", engines=(Engine(endpoint=ENGINE, kind="vllm"),))
        self.server.publish(build_table([service]))
        self.upstream, self.engine, self.wire = UpstreamConnection(ENGINE), Wire(), Wire()
        self.upstream.connection_made(cast(asyncio.Transport, self.engine))
        self.context.pool.give(self.upstream)
        self.client = ClientConnection(self.context)
        self.client.connection_made(cast(asyncio.Transport, self.wire))
        self.client.data_received(REQUEST)

    def payload(self) -> bytes:
        """What the client has of the body, free of chunks."""
        head, _, body = self.wire.out.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        return Dechunker().feed(body) if body else b""

    def short(self) -> bool:
        """Whether the next read may take the short way."""
        return self.upstream.short_way is not None


def event(text: str) -> bytes:
    return b'data: {"id":"a","choices":[{"delta":{"content":%b},"finish_reason":null}]}\n\n' % json.dumps(text).encode()


def chunk_as(style: int, payload: bytes) -> bytes:
    """One payload as engines may write it: as ours, in capitals, with an extension, in two chunks, with zeros before its size."""
    half = len(payload) // 2
    return (
        chunk(payload),
        b"%X\r\n%b\r\n" % (len(payload), payload),
        b"%x;a=b\r\n%b\r\n" % (len(payload), payload),
        chunk(payload[:half]) + chunk(payload[half:]),
        b"00%x\r\n%b\r\n" % (len(payload), payload),
    )[style]


texts = st.text(max_size=60) | st.sampled_from(
    ["error", '"error"', '{"error": 1}', '"finish_reason":"abort"', "or", "\n\n", "x" * 5000]
)


@given(
    st.lists(st.tuples(texts, st.integers(0, 4), st.booleans()), min_size=1, max_size=12),
    st.lists(st.integers(1, 300), max_size=6),
)
def test_clients_get_every_event_and_the_recording_every_byte(said: list[tuple[str, int, bool]], cuts: list[int]) -> None:
    rig = Rig()
    rig.upstream.data_received(HEAD)
    reads, pending = [], b""
    for text, style, ends in said:
        pending += chunk_as(style, event(text))
        if ends:
            reads.append(pending)
            pending = b""
    reads += [pending] if pending else []
    for number, size in enumerate(cuts):
        at = number * 2 % len(reads)
        first, rest = reads[at][:size], reads[at][size:]
        reads[at : at + 1] = [part for part in (first, rest) if part]
    events = [event(text) for text, _, _ in said]
    boundaries = {len(b"".join(events[:count])) for count in range(len(events) + 1)}
    heard = b""
    for read in reads:
        rig.upstream.data_received(read)
        heard += read
        assert len(rig.payload()) in boundaries
    exchange = rig.client._exchange
    assert exchange is not None
    recording = exchange._handling.recording
    assert recording is not None
    assert b"".join(recording._tape._parts) == heard  # type: ignore[attr-defined]
    rig.upstream.data_received(END_OF_CHUNKS)
    assert rig.payload() == b"".join(events)
    assert rig.wire.out.endswith(END_OF_CHUNKS)
    assert rig.book.shelf.held == 0
    assert rig.context.pool.idle_count(ENGINE) == 1
    assert not rig.short()


async def test_an_engine_is_timed_from_its_last_event_on_the_short_way() -> None:
    rig = Rig()
    rig.upstream.data_received(HEAD + chunk(event("a")))
    assert rig.short()
    for _ in range(5):
        rig.now += 9
        rig.upstream.data_received(chunk(event("b")))
        assert rig.short()
        rig.server.sweep()
    rig.now += 9.9
    rig.server.sweep()
    assert not rig.engine.aborted
    rig.now += 0.2
    rig.server.sweep()
    assert rig.engine.aborted
    gaps = rig.context.metrics.series("m", "gpu").gap
    assert sum(gaps.buckets) == 5
    assert gaps.total == 45.0
    await asyncio.sleep(0)
    rig.client.connection_lost(None)


async def test_an_engine_that_gives_up_on_the_short_way_is_not_believed() -> None:
    rig = Rig()
    rig.upstream.data_received(HEAD + chunk(event("a")))
    rig.upstream.data_received(chunk(event("error")))
    assert rig.short()
    rig.upstream.data_received(chunk(b'data: {"error":{"message":"cuda"}}\n\n'))
    assert rig.engine.aborted
    assert b"cuda" not in rig.wire.out
    await asyncio.sleep(0)
    rig.client.connection_lost(None)


def test_a_client_that_leaves_ends_the_short_way() -> None:
    rig = Rig()
    rig.upstream.data_received(HEAD + chunk(event("a")))
    assert rig.short()
    rig.client.connection_lost(None)
    assert rig.engine.aborted
    assert not rig.short()


async def test_surplus_after_the_end_is_not_passed_on() -> None:
    rig = Rig()
    rig.upstream.data_received(HEAD + chunk(event("a")))
    rig.upstream.data_received(chunk(event("b")) + END_OF_CHUNKS + chunk(event("c")))
    assert b'"c"' not in rig.wire.out
    assert rig.engine.aborted
    await asyncio.sleep(0)
    rig.client.connection_lost(None)


pieces = st.sampled_from(
    [b"0", b"1", b"2", b"a", b"A", b"10", b"\r\n", b"\n", b"\r", b"xy", b"x", b"\n\n", b";e", b"+1", b"0x1", b" 1", b"1_0", b"-1"]
)


class Follower:
    """llhttp's reading of the same bytes."""

    def __init__(self) -> None:
        self.begun = self.ended = self.complete = 0

    def on_chunk_header(self) -> None:
        self.begun += 1

    def on_chunk_complete(self) -> None:
        self.ended += 1

    def on_message_complete(self) -> None:
        self.complete += 1


@given(st.lists(pieces, max_size=14).map(b"".join) | st.binary(min_size=1, max_size=600).map(chunk))
@example(b"-1\r\n")
@example(b"1\r\n\n\r\n")
@example(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
@example(b"2\r\nxy\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
@example(b"2\r\nxyz\re\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
@example(b"1e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
@example(b"2\r\n\n\n\r\n0\r\n\r\n")
@example(chunk(b"x" * (LONGEST - 9)) + chunk(b"y" * LONGEST))
def test_what_counts_as_whole_chunks_is_whole_chunks_to_llhttp(data: bytes) -> None:
    found = whole_chunks(data)
    follower = Follower()
    parser = httptools.HttpResponseParser(follower)
    parser.feed_data(HEAD)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        assert found == NOT_WHOLE
        return
    if found != NOT_WHOLE:
        assert follower.begun == follower.ended
        assert data.endswith(b"\r\n")
        assert (found == LAST) == bool(follower.complete)


@given(st.integers(0, LONGEST - 10))
def test_an_opening_tells_one_chunk_by_its_size(payload: int) -> None:
    data = chunk(b"x" * payload) or END_OF_CHUNKS
    count, opening = OPENINGS[len(data)]
    assert (data[:count] == opening) == (payload > 1)
    assert whole_chunks(data) == (WHOLE if payload else LAST)
    longer = data + b"\r\n"
    count, opening = OPENINGS[len(longer)]
    assert longer[:count] != opening
