"""HTTP/2 as Go's client speaks it: any chunks, any order, flow control, and an end in words for everything else."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_runtime.http2 import frames
from mica_runtime.http2.connection import MAX_STREAMS, Http2Protocol, Reply
from mica_runtime.http2.frames import PREFACE, Code, Kind, Setting
from mica_runtime.http2.hpack import CODE_LENGTHS, Decoder, HpackError, decode_huffman

LIMIT = 1000


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        at = 0
        while at < len(self.sent):
            size, kind, flags, stream = frames.head(self.sent, at)
            yield kind, flags, stream, self.sent[at + 9 : at + 9 + size]
            at += 9 + size

    def bodies(self) -> dict[int, bytes]:
        """Whole answers by stream."""
        parts: dict[int, bytes] = defaultdict(bytes)
        ended = set()
        for kind, flags, stream, payload in self.frames():
            if kind == Kind.DATA:
                parts[stream] += payload
                ended |= {stream} if flags & frames.END_STREAM else set()
        return {stream: body for stream, body in parts.items() if stream in ended}

    def kinds(self) -> list[int]:
        return [kind for kind, *_ in self.frames()]

    def ended_with(self) -> Code:
        *_, (kind, _, _, payload) = self.frames()
        assert kind == Kind.GOAWAY
        return Code(int.from_bytes(payload[4:8], "big"))


class Peer:
    """One connection with a scripted application behind it."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.open: set[Any] = set()
        self.asked: list[tuple[str, str, bytes | None]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.protocol = Http2Protocol(self.respond, self.at_once, body_limit=LIMIT, peers=self.open)
        self.protocol.connection_made(self.wire)  # type: ignore[arg-type]  # what is used of a transport

    async def respond(self, method: str, path: str, body: bytes | None) -> Reply:
        self.asked.append((method, path, body))
        await self.go_on.wait()
        if path == "/fail":
            raise RuntimeError("broken")
        return Reply(b"too large" if body is None else b"echo " + body)

    def at_once(self, method: str, path: str, body: bytes) -> Reply | None:
        if path == "/fail-at-once":
            raise RuntimeError("broken")
        return Reply(b"at once " + body) if path == "/at-once" else None

    async def hear(self, *parts: bytes) -> None:
        for part in parts:
            self.protocol.data_received(part)
        for _ in range(5):
            await asyncio.sleep(0)


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(stream: int, body: bytes = b"", path: bytes = b"/filter", *, pieces: int = 1) -> bytes:
    block = literal(b":method", b"POST") + literal(b":path", path) + literal(b":scheme", b"https")
    flags = frames.END_HEADERS | (0 if body else frames.END_STREAM)
    out = frames.frame(Kind.HEADERS, flags, stream, block)
    step = -(-len(body) // pieces) if body else 1
    cut = [body[at : at + step] for at in range(0, len(body), step)]
    for number, part in enumerate(cut, 1):
        out += frames.frame(Kind.DATA, frames.END_STREAM if number == len(cut) else 0, stream, part)
    return out


HELLO = PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 4 * 2**20})


@given(cuts=st.lists(st.integers(0, 400), max_size=20), pieces=st.integers(1, 5))
def test_requests_are_answered_however_their_bytes_are_cut(cuts: list[int], pieces: int) -> None:
    async def story() -> None:
        peer = Peer()
        data = HELLO + request(1, b"one", pieces=pieces) + request(3, b"x" * 200, pieces=pieces) + request(5)
        places = sorted({cut for cut in cuts if cut < len(data)} | {0, len(data)})
        await peer.hear(*(data[a:b] for a, b in itertools.pairwise(places)))
        assert peer.wire.bodies() == {1: b"echo one", 3: b"echo " + b"x" * 200, 5: b"echo "}
        assert [(method, path) for method, path, _ in peer.asked] == [("POST", "/filter")] * 3

    asyncio.run(story())


async def test_a_later_request_does_not_wait_for_an_earlier_one() -> None:
    peer = Peer()
    peer.go_on.clear()
    await peer.hear(HELLO, request(1, b"slow"))
    peer.go_on = asyncio.Event()
    peer.go_on.set()
    await peer.hear(request(3, b"quick"))
    assert peer.wire.bodies() == {3: b"echo quick"}


async def test_what_needs_no_waiting_is_answered_before_the_next_bytes_are_read() -> None:
    peer = Peer()
    peer.protocol.data_received(HELLO + request(1, b"one", b"/at-once") + request(3, b"two", b"/fail-at-once"))
    assert peer.wire.bodies() == {1: b"at once one", 3: b"internal error\n"}
    assert not peer.asked


async def test_an_answer_at_once_may_be_the_last_one() -> None:
    peer = Peer()
    headers, body = request(1, b"x", b"/at-once")[:-10], request(1, b"x", b"/at-once")[-10:]
    await peer.hear(HELLO, headers)
    peer.protocol.shutdown()
    assert not peer.wire.closed
    await peer.hear(body)
    assert peer.wire.bodies() == {1: b"at once x"}
    assert peer.wire.closed


async def test_headers_may_come_in_pieces_and_padded() -> None:
    peer = Peer()
    block = literal(b":method", b"POST") + literal(b":path", b"/bind?x=1")
    padded = bytes([3]) + (bytes(5) + block[:10]) + bytes(3)
    flags = frames.PADDED | frames.PRIORITY | frames.END_STREAM
    start = frames.frame(Kind.HEADERS, flags, 1, padded)
    await peer.hear(HELLO + start, frames.frame(Kind.CONTINUATION, frames.END_HEADERS, 1, block[10:]))
    assert peer.asked == [("POST", "/bind", b"")]


async def test_a_body_beyond_the_limit_is_not_kept() -> None:
    peer = Peer()
    await peer.hear(HELLO, request(1, b"x" * (LIMIT + 1), pieces=4), request(3, b"x" * LIMIT))
    assert peer.asked[0][2] is None
    assert peer.asked[1][2] == b"x" * LIMIT


async def test_an_answer_waits_for_the_window_of_its_stream_and_of_the_connection() -> None:
    peer = Peer()
    await peer.hear(PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}), request(1, b"0123456789"))
    assert peer.wire.bodies() == {}
    await peer.hear(frames.window_update(1, 3))
    assert peer.wire.bodies() == {}
    await peer.hear(frames.settings({Setting.INITIAL_WINDOW_SIZE: 12}))
    assert peer.wire.bodies() == {1: b"echo 0123456789"}
    sizes = [len(payload) for kind, _, _, payload in peer.wire.frames() if kind == Kind.DATA]
    assert sizes == [10, 3, 2]


async def test_more_requests_than_were_offered_are_refused_and_the_others_answered() -> None:
    peer = Peer()
    peer.go_on.clear()
    await peer.hear(HELLO, *(request(2 * n + 1, b"x") for n in range(MAX_STREAMS + 1)))
    refused = [(stream, payload) for kind, _, stream, payload in peer.wire.frames() if kind == Kind.RST_STREAM]
    assert refused == [(2 * MAX_STREAMS + 1, Code.REFUSED_STREAM.to_bytes(4, "big"))]
    peer.go_on.set()
    await peer.hear(request(2 * MAX_STREAMS + 3, b"y"))
    await peer.hear()
    assert len(peer.wire.bodies()) >= MAX_STREAMS


async def test_a_request_that_was_given_up_is_not_answered() -> None:
    peer = Peer()
    peer.go_on.clear()
    await peer.hear(HELLO, request(1, b"x"), frames.reset(1, Code.NO_ERROR))
    peer.go_on.set()
    await peer.hear(request(3, b"y"))
    assert peer.wire.bodies() == {3: b"echo y"}


async def test_a_failure_of_the_application_is_status_500() -> None:
    peer = Peer()
    await peer.hear(HELLO, request(1, b"x", b"/fail"))
    [block] = [payload for kind, _, _, payload in peer.wire.frames() if kind == Kind.HEADERS]
    assert Decoder().decode(block)[0] == (b":status", b"500")


async def test_an_answer_says_status_type_and_length() -> None:
    peer = Peer()
    await peer.hear(HELLO, request(1, b"x"))
    [block] = [payload for kind, _, _, payload in peer.wire.frames() if kind == Kind.HEADERS]
    headers = ((b":status", b"200"), (b"content-type", b"application/json"), (b"content-length", b"6"))
    assert Decoder().decode(block) == headers


async def test_pings_and_settings_are_acknowledged() -> None:
    peer = Peer()
    await peer.hear(HELLO, frames.frame(Kind.PING, 0, 0, b"12345678"))
    acknowledged = [(kind, payload) for kind, flags, _, payload in peer.wire.frames() if flags & frames.ACK]
    assert acknowledged == [(Kind.SETTINGS, b""), (Kind.PING, b"12345678")]


async def test_shutting_down_answers_what_is_under_way_and_takes_nothing_new() -> None:
    peer = Peer()
    peer.go_on.clear()
    await peer.hear(HELLO, request(1, b"x"))
    peer.protocol.shutdown()
    assert not peer.wire.closed
    await peer.hear(request(3, b"y"))
    peer.go_on.set()
    await peer.hear()
    assert peer.wire.bodies() == {1: b"echo x"}
    assert peer.wire.closed
    peer.protocol.connection_lost(None)
    assert not peer.open


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
        (HELLO + frames.frame(Kind.DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
        (HELLO + request(2, b"x"), Code.PROTOCOL_ERROR),
        (HELLO + b"\xff\xff\xff\0\0\0\0\0\1", Code.FRAME_SIZE_ERROR),
        (HELLO + frames.frame(Kind.HEADERS, 0, 1, b"") + frames.frame(Kind.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (HELLO + frames.frame(Kind.CONTINUATION, 0, 1, b""), Code.PROTOCOL_ERROR),
        (HELLO + frames.frame(Kind.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (HELLO + frames.frame(Kind.SETTINGS, 0, 0, b"123"), Code.FRAME_SIZE_ERROR),
        (HELLO + frames.window_update(0, frames.MAX_WINDOW), Code.FLOW_CONTROL_ERROR),
        (HELLO + frames.frame(Kind.PUSH_PROMISE, 0, 1, b""), Code.PROTOCOL_ERROR),
        (
            HELLO + frames.frame(Kind.HEADERS, 0, 1, b"") + frames.frame(Kind.CONTINUATION, 0, 1, bytes(60_000)) * 2,
            Code.ENHANCE_YOUR_CALM,
        ),
    ],
)
async def test_what_is_not_http2_ends_the_connection_with_a_reason(data: bytes, code: Code) -> None:
    peer = Peer()
    await peer.hear(data)
    assert peer.wire.ended_with() == code
    assert peer.wire.closed


@given(data=st.binary(max_size=200), kind=st.integers(0, 12), flags=st.integers(0, 255), stream=st.integers(0, 9))
def test_no_bytes_raise(data: bytes, kind: int, flags: int, stream: int) -> None:
    async def story() -> None:
        peer = Peer()
        size = len(data).to_bytes(3, "big")
        await peer.hear(HELLO, request(1, b"x"), size + bytes([kind, flags]) + stream.to_bytes(4, "big") + data, data)

    asyncio.run(story())


def test_headers_are_read_as_rfc_7541_writes_them() -> None:
    decoder = Decoder()
    first = decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"))
    assert first[-1] == (b":authority", b"www.example.com")
    assert decoder.decode(bytes.fromhex("828684be5886a8eb10649cbf"))[-2:] == (first[-1], (b"cache-control", b"no-cache"))
    third = decoder.decode(bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"))
    assert third[-2:] == (first[-1], (b"custom-key", b"custom-value"))


def test_a_table_that_was_given_up_is_empty() -> None:
    decoder = Decoder()
    decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"))
    decoder.decode(b"\x20")
    assert decoder.stateless
    with pytest.raises(HpackError, match="index 62"):
        decoder.decode(b"\xbe")


@pytest.mark.parametrize("data", [b"\x00", b"\xff\xff\xff\xff", b"\xff"])
def test_a_huffman_string_with_a_wrong_end_is_refused(data: bytes) -> None:
    with pytest.raises(HpackError):
        decode_huffman(data)


def test_every_byte_has_a_huffman_code_and_no_two_share_one() -> None:
    """The sum of 2^-bits over a complete code is 1 (Kraft)."""
    assert sum(1 << (30 - bits) for bits in (*CODE_LENGTHS, 30)) == 1 << 30
    assert decode_huffman(bytes.fromhex("d07abe941054d444a8200595040b8166e082a62d1bff")) == b"Mon, 21 Oct 2013 20:13:21 GMT"
