"""However an engine cuts its chunks and its writes, the client has whole events at any moment, and all of them in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.events import END_OF_CHUNKS, Dechunker, WholeEvents, chunk, end_of_last_event
from mica_router.core.response import ResponseReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
events_of = st.lists(st.binary(min_size=1, max_size=8).map(lambda b: b"data: " + b.hex().encode()), min_size=1, max_size=8)
cuts_of = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def parts(data: bytes, cuts: list[int]) -> list[bytes]:
    found, start, turn = [], 0, 0
    while start < len(data):
        found.append(data[start : start + cuts[turn % len(cuts)]])
        start, turn = start + cuts[turn % len(cuts)], turn + 1
    return found


@given(events_of, st.sampled_from([b"\n\n", b"\r\n\r\n"]), cuts_of, cuts_of, st.booleans())
def test_the_client_has_whole_events_at_any_moment(
    lines: list[bytes], separator: bytes, chunks: list[int], reads: list[int], aligned: bool
) -> None:
    events = [line + separator for line in lines]
    payload = b"".join(events)
    framed = events if aligned else parts(payload, chunks)
    reader = ResponseReader()
    assert reader.feed(HEAD) == b""
    whole, client, got = WholeEvents(chunked=True, frames=True), Dechunker(), b""
    boundaries = {len(b"".join(events[:number])) for number in range(len(events) + 1)}
    for data in parts(b"".join(map(chunk, framed)) + END_OF_CHUNKS, reads):
        out = whole.feed(reader.feed(data), reader)
        got += client.feed(out) if out else b""
        assert not reader.broken
        assert len(got) in boundaries
    assert got == payload
    assert reader.complete


@given(events_of, cuts_of)
def test_a_body_that_ends_with_its_connection_becomes_chunks_of_whole_events(lines: list[bytes], reads: list[int]) -> None:
    payload = b"".join(line + b"\n\n" for line in lines)
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    whole, client, got = WholeEvents(chunked=False, frames=True), Dechunker(), b""
    for data in parts(payload, reads):
        out = whole.feed(reader.feed(data), reader)
        got += client.feed(out) if out else b""
        assert got.endswith(b"\n\n") or not got
    assert reader.finish()
    assert whole.finish(reader).endswith(END_OF_CHUNKS)
    assert got == payload


def test_an_event_that_is_too_long_to_wait_for_is_given_out_torn_and_says_so() -> None:
    reader = ResponseReader()
    reader.feed(HEAD)
    whole = WholeEvents(chunked=True, frames=True)
    part = chunk(b"data: " + b"x" * 1_000_000)
    outs = [whole.feed(reader.feed(part), reader) for _ in range(6)]
    assert whole.torn
    assert any(outs)
    whole.feed(reader.feed(chunk(b"\n\n")), reader)
    assert not whole.torn


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_the_end_of_the_last_event_is_found(before: bytes, after: bytes) -> None:
    clean = after.replace(b"\n", b"").replace(b"\r", b"")
    for separator in (b"\n\n", b"\r\n\r\n"):
        text = before.replace(b"\n", b"").replace(b"\r", b"") + separator + clean
        assert end_of_last_event(text) == len(text) - len(clean)
    assert end_of_last_event(clean) == 0
