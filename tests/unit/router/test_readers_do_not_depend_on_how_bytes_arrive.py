"""Properties of the two sans-I/O readers: any cut of the bytes gives the same result, and limits always hold."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from mica_router.core.request import Phase, Request, RequestLimits, RequestReader
from mica_router.core.response import ResponseReader

LIMITS = RequestLimits(head=512, body=1024)

tokens = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ-", min_size=1, max_size=12).filter(
    lambda name: name.lower() not in {"te", "host", "expect", "connection", "upgrade", "content-length", "transfer-encoding"}
)
values = st.text('abc XYZ0123,;="', max_size=20).map(str.strip)
bodies = st.binary(max_size=300)


def encode(method: str, headers: list[tuple[str, str]], body: bytes, chunks: list[int] | None) -> bytes:
    lines = [f"{method} /v1/x HTTP/1.1", "Host: r", *(f"{name}: {value}" for name, value in headers)]
    if chunks is None:
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    lines.append("Transfer-Encoding: chunked")
    coded, rest = b"", body
    for size in chunks:
        piece, rest = rest[:size], rest[size:]
        if piece:
            coded += b"%x\r\n%s\r\n" % (len(piece), piece)
    if rest:
        coded += b"%x\r\n%s\r\n" % (len(rest), rest)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + coded + b"0\r\n\r\n"


messages = st.tuples(
    st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    st.lists(st.tuples(tokens, values), max_size=4),
    bodies,
    st.none() | st.lists(st.integers(1, 50), max_size=5),
)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(bounds)]


@given(st.lists(messages, min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=30))
def test_requests_are_the_same_however_they_are_cut(sent: list[tuple], cuts: list[int]) -> None:  # type: ignore[type-arg]
    reader = RequestReader(LIMITS)
    got: list[Request] = []
    for piece in cut(b"".join(encode(*message) for message in sent), cuts):
        got.extend(reader.feed(piece))
    assert reader.failure is None
    assert [(r.method.decode(), r.body) for r in got] == [(method, body) for method, _, body, _ in sent]
    assert [[(n.decode(), v.decode()) for n, v in r.headers[1:-1]] for r in got] == [headers for _, headers, _, _ in sent]
    assert reader.phase is Phase.IDLE


def test_a_body_in_tiny_parts_takes_no_more_than_its_bytes() -> None:
    reader = RequestReader(RequestLimits(head=4096, body=2**20))
    reader.feed(b"POST / HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(50):
            reader.feed(b"2\r\nab\r\n" * 1000)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 300_000
    (request,) = reader.feed(b"0\r\n\r\n")
    assert request.body == b"ab" * 50_000
    assert request.size > 100_000
    assert reader.buffered == 0


@given(st.lists(st.binary(max_size=400), max_size=20))
@example([b"GET / HTTP/1.1\r\n"])
@example([b"POST / HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n", b"fffffffffffffffff\r\n"])
@example([b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 99999999999999999999999999\r\n\r\n"])
def test_no_bytes_make_the_reader_raise(pieces: list[bytes]) -> None:
    reader = RequestReader(LIMITS)
    for piece in pieces:
        for request in reader.feed(piece):
            assert len(request.body) <= LIMITS.body
    if reader.failure is not None:
        assert reader.feed(b"GET / HTTP/1.1\r\nHost: r\r\n\r\n") == []


@given(st.integers(0, 3000), st.integers(1, 700))
def test_bodies_over_the_limit_are_refused_and_others_are_not(size: int, chunk: int) -> None:
    for chunks in (None, [chunk] * (size // chunk)):
        reader = RequestReader(LIMITS)
        got = reader.feed(encode("POST", [], b"x" * size, chunks))
        refused = reader.failure is not None and reader.failure.status == 413
        assert refused == (size > LIMITS.body)
        assert bool(got) != refused


@given(st.integers(0, 2000), st.integers(1, 300))
def test_heads_over_the_limit_are_refused_even_if_they_never_end(size: int, step: int) -> None:
    reader = RequestReader(LIMITS)
    data = b"GET / HTTP/1.1\r\nHost: r\r\nX: " + b"a" * size
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    assert (reader.failure is not None) == (len(data) > LIMITS.head)


RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\n", b"hello", True),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\n", True),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok", False),
    "closing": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", b"ok", False),
    "until eof": (b"HTTP/1.1 200 OK\r\n\r\n", b"all", False),
}


@given(st.sampled_from(sorted(RESPONSES)), st.lists(st.integers(0, 200), max_size=20), st.booleans())
def test_response_bodies_are_the_same_however_they_are_cut(kind: str, cuts: list[int], interim: bool) -> None:
    head, body, reusable = RESPONSES[kind]
    reader = ResponseReader()
    prefix = b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b""
    assert b"".join(reader.feed(piece) for piece in cut(prefix + head + body, cuts)) == body
    assert reader.head is not None
    assert reader.head.reusable == reusable
    assert reader.complete == (kind != "until eof")
    assert reader.finish()
    assert not reader.broken


@given(st.sampled_from(["length", "chunked"]), st.integers(1, 10))
def test_a_response_that_ends_early_is_not_complete(kind: str, missing: int) -> None:
    head, body, _ = RESPONSES[kind]
    reader = ResponseReader()
    reader.feed(head + body[: max(0, len(body) - missing)])
    assert not reader.finish()


@given(st.sampled_from(["length", "empty", "no content", "chunked"]), st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"x", b"\0"]))
def test_bytes_behind_a_response_are_never_forwarded(kind: str, surplus: bytes) -> None:
    head, body, _ = RESPONSES[kind]
    reader = ResponseReader()
    assert surplus not in reader.feed(head + body + surplus)
    assert reader.broken


@given(st.binary(max_size=500))
def test_no_bytes_make_the_response_reader_raise(data: bytes) -> None:
    reader = ResponseReader()
    reader.feed(data)
    reader.finish()


def test_a_head_request_has_no_body_whatever_its_length_says() -> None:
    reader = ResponseReader(head_request=True)
    assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n") == b""
    assert reader.complete


def test_an_endless_head_is_a_fault() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000)
    assert reader.broken


@given(
    names=st.lists(st.sampled_from(["accept", "user-agent", "x-request-id", "authorization", "Connection"]), max_size=4),
    values=st.lists(st.sampled_from(["a", "b c", "keep-alive", "close", "x-request-id"]), min_size=4, max_size=4),
    bodies=st.lists(st.binary(max_size=6), min_size=1, max_size=6),
)
def test_a_head_that_was_seen_before_means_what_it_meant(names, values, bodies):
    headers = "".join(f"{name}: {value}\r\n" for name, value in zip(names, values, strict=False))

    def message(body):
        return f"POST /v1/x HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body

    at_once, split = RequestReader(RequestLimits()), RequestReader(RequestLimits())
    for body in bodies:
        told = at_once.feed(message(body))
        parts = message(body)
        assert told == [request for at in range(len(parts)) for request in split.feed(parts[at : at + 1])]
        assert (at_once.failure, at_once.phase) == (split.failure, split.phase)


def test_a_known_head_is_held_to_the_limits_of_each_connection():
    message = b"POST /limits HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
    assert RequestReader(RequestLimits()).feed(message)
    assert RequestReader(RequestLimits()).feed(message)
    small = RequestReader(RequestLimits(body=1024))
    assert small.feed(message) == []
    assert small.failure.status == 413


def test_a_known_head_does_not_hide_what_follows_its_body():
    message = b"POST /more HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"
    reader = RequestReader(RequestLimits())
    assert [request.body for request in reader.feed(message)] == [b"ab"]
    assert [request.body for request in reader.feed(message + message)] == [b"ab", b"ab"]
    assert [request.body for request in reader.feed(message + b"GARBAGE\r\n\r\n")] == [b"ab"]
    assert reader.failure is not None


def test_a_refused_offer_to_switch_protocols_does_not_lose_the_request_before_it() -> None:
    reader = RequestReader(RequestLimits())
    whole = b"GET /v1/models HTTP/1.1\r\nHost: r\r\n\r\n"
    offer_without_host = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert [request.target for request in reader.feed(whole + offer_without_host)] == [b"/v1/models"]
    assert reader.failure is not None


def test_a_client_of_http_1_0_that_offers_to_switch_protocols_stays_one() -> None:
    reader = RequestReader(RequestLimits())
    (request,) = reader.feed(b"GET / HTTP/1.0\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert request.http10
