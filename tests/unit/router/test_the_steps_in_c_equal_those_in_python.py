"""What is done for every read of a steady stream is done in C where it can be, and nobody can tell but by the time it takes."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mica_router import hot
from mica_router.core.chunks import LONGEST
from mica_router.core.events import END_OF_CHUNKS, chunk
from mica_router.hot import Outlet, _native, plain
from mica_router.metrics import GAP_BUCKETS
from mica_runtime.native import sources_digest

ROOT = Path(__file__).parents[3]
EVENT = chunk(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n')


def through(write: Callable[[bytes], Any]) -> Outlet:
    """A client that has no socket of its own."""
    return Outlet(write, -1, bool, int)


class Stream:
    """One stream through one of the two kinds of steps, and all that it leaves behind."""

    def __init__(self, kind: Any, *, room: int, records: bool = True) -> None:
        self.events: list[tuple[str, object]] = []
        events = self.events
        self.now = now = [1000.0]

        class Connection(kind.Line):
            __slots__ = ()

            def long_way(self, data: bytes) -> None:
                events.append(("long", data))

        class Recording(kind.Reel):
            __slots__ = ()

            def _ask_for_more(self, data: bytes) -> bool:
                events.append(("more", data))
                self._left += 300
                return False

        class Exchange(kind.Passing):
            __slots__ = ("__weakref__",)

        self.reel: Any = Recording()
        self.reel._left, self.reel._parts = room, []
        self.gaps: Any = kind.Histogram(GAP_BUCKETS)
        self.exchange: Any = Exchange()
        self.exchange._heard_at = now[0]

        def clock() -> float:
            return now[0]

        def write(data: bytes) -> None:
            events.append(("written", data))

        self.exchange.steady(clock, self.gaps, self.reel.heard if records else None, through(write))
        self.connection: Any = Connection()
        self.connection.short_way = None

    def read(self, data: bytes, *, after: float = 0.0) -> None:
        self.now[0] += after
        if self.connection.short_way is None:
            self.connection.short_way = self.exchange.pass_on
        self.connection.data_received(data)
        self.events.append(("short", self.connection.short_way is not None))

    def seen(self) -> tuple[object, ...]:
        gaps = (list(self.gaps.buckets), self.gaps.total)
        return self.events, self.reel._left, self.reel._parts, gaps, self.exchange._heard_at


texts = st.binary(max_size=40) | st.sampled_from(
    [
        b'{"error":',
        b'"finish_reason":"abort"',
        b'"finish_reason":"error"',
        b"error",
        b"or",
        b"o",
        b"r",
        b"\n",
        b"\r\n",
        b"x" * LONGEST,
    ]
)
payloads = st.lists(texts, max_size=4).map(b"".join)
framings = st.sampled_from(
    (b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"0%x\r\n%b\r\n", b"%x;a\r\n%b\r\n", b"%x\r\n%b\n", b"%x \r\n%b\r\n")
)
chunks = st.builds(
    lambda framing, payload, end: framing % (len(payload + end), payload + end),
    framings,
    payloads,
    st.sampled_from((b"\n\n", b"\n", b"", b"\r\n\n")),
)
pieces = st.sampled_from(
    (b"0", b"1", b"2", b"f", b"F", b"10", b"00000001", b"g", b"\r\n", b"\n", b"\r", b"\n\n\r\n", b"ab", END_OF_CHUNKS)
)
reads = st.lists(chunks, max_size=3).map(b"".join) | st.lists(pieces, max_size=10).map(b"".join) | st.binary(max_size=80)
steps = st.tuples(reads, st.sampled_from((0.0, *GAP_BUCKETS, 0.0015, 7.0)))


@settings(max_examples=400)
@given(st.lists(steps, max_size=8), st.integers(0, 600), st.booleans())
@example([(b"-" + b"x" * 16 + b"\n\n\r\n", 0.0)], 1000, False)
@example([(EVENT, 0.001), (EVENT, 0.0011), (EVENT, 90.0)], 1000, True)
@example([(b"1\r\n\n\r\n", 0.0), (b"2\r\n\n\n\r\n", 0.0), (b"3\r\n\r\n\n\r\n", 0.0)], 1000, True)
@example([(chunk(b"a\r\n\n") + chunk(b"\r\n\n"), 0.0), (b"1\r\na\r\n" + chunk(b"\n\n"), 0.0)], 1000, False)
@example([(chunk(b"x" * size + b"\n\n"), 0.0) for size in (0, 13, 14, 15, 252, 253, 254, 255, 4085, 4086, 4087, 4088)], 600, True)
def test_both_kinds_do_the_same_with_every_read(said: list[tuple[bytes, float]], room: int, records: bool) -> None:
    native, python = (Stream(kind, room=room, records=records) for kind in (_native, plain))
    for data, after in said:
        native.read(data, after=after)
        python.read(data, after=after)
    assert native.seen() == python.seen()


@pytest.mark.parametrize("kind", [_native, plain])
def test_what_the_called_raise_is_passed_on(kind: Any) -> None:
    def fails(*_: object) -> Any:
        raise ValueError("a fault of what was called")

    def works(*_: object) -> Any:
        return None

    for clock, hear, write in ((fails, works, works), (time.monotonic, fails, works), (time.monotonic, works, fails)):
        stream = Stream(kind, room=1000)
        stream.exchange.steady(clock, stream.gaps, hear, through(write))
        with pytest.raises(ValueError, match="a fault"):
            stream.read(EVENT)


@pytest.mark.parametrize("kind", [_native, plain])
def test_the_usual_clock_and_one_that_tells_the_same_are_one(kind: Any) -> None:
    stream = Stream(kind, room=1000)
    stream.exchange.steady(time.monotonic, stream.gaps, None, through(stream.events.append))
    before = time.monotonic()
    stream.read(EVENT)
    assert before <= stream.exchange._heard_at <= time.monotonic()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and the client's end of a connection."""
    ours, client = socket.socketpair()
    ours.setblocking(False)
    client.setblocking(False)
    with ours, client:
        yield ours, client


class Transport:
    """A transport over `sock` that only keeps what it is given."""

    def __init__(self, kind: Any, sock: socket.socket) -> None:
        self.kept, self.closes, self.holds = b"", False, 0
        self.stream = Stream(kind, room=1000)
        outlet = Outlet(self.write, sock.fileno(), lambda: self.closes, lambda: self.holds)
        self.stream.exchange.steady(time.monotonic, self.stream.gaps, None, outlet)

    def write(self, data: bytes) -> None:
        self.kept += data


def test_events_go_into_the_socket_where_nothing_is_before_them(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, client = ends
    transport = Transport(_native, ours)
    transport.stream.read(EVENT)
    assert (client.recv(4096), transport.kept) == (EVENT, b"")
    transport.holds = 7
    transport.stream.read(EVENT)
    transport.holds, transport.closes = 0, True
    transport.stream.read(EVENT)
    assert transport.kept == EVENT * 2
    with pytest.raises(BlockingIOError):
        client.recv(1)
    in_python = Transport(plain, ours)
    in_python.stream.read(EVENT)
    assert in_python.kept == EVENT


def test_what_a_socket_does_not_take_is_the_transports(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, client = ends
    transport = Transport(_native, ours)
    event, said = chunk(b"x" * 3000 + b"\n\n"), 0
    while not transport.kept:
        transport.stream.read(event)
        said += 1
    read = b""
    while len(read) < said * len(event) - len(transport.kept):
        read += client.recv(65536)
    assert read + transport.kept == event * said
    transport.kept = b""
    client.close()
    transport.stream.read(event)
    assert transport.kept == event


def test_faults_of_what_a_transport_tells_are_passed_on(ends: tuple[socket.socket, socket.socket]) -> None:
    def fails() -> Any:
        raise ValueError("a fault")

    ours, _ = ends
    transport = Transport(_native, ours)
    for closing, queued in ((fails, int), (bool, fails)):
        transport.stream.exchange.steady(
            time.monotonic, transport.stream.gaps, None, Outlet(print, ours.fileno(), closing, queued)
        )
        with pytest.raises(ValueError, match="a fault"):
            transport.stream.read(EVENT)


def test_streams_that_hold_each_other_are_collected() -> None:
    gone = []
    for _ in range(3):
        stream = Stream(_native, room=1000)
        stream.exchange.steady(time.monotonic, stream.gaps, stream.exchange.pass_on, through(stream.connection.data_received))
        stream.connection.short_way = stream.exchange.pass_on
        stream.reel._parts.append(stream.exchange.pass_on)
        gone.append(weakref.ref(stream.exchange))
        del stream
    gc.collect()
    assert [one() for one in gone] == [None, None, None]


def test_steps_that_were_told_nothing_do_nothing() -> None:
    assert not _native.Passing().pass_on(EVENT)
    with pytest.raises(TypeError):
        _native.Passing().steady(time.monotonic, [], None, through(print))
    with pytest.raises(TypeError):
        _native.Passing().steady(time.monotonic, _native.Histogram(()), None, (print,))


@pytest.mark.parametrize("kind", [_native, plain])
def test_a_histogram_has_no_more_bounds_than_it_has_room_for(kind: Any) -> None:
    with pytest.raises(ValueError, match="at most 16 bounds"):
        kind.Histogram(tuple(float(bound) for bound in range(17)))


@given(
    st.lists(st.floats(allow_nan=False), max_size=plain.MOST_BOUNDS, unique=True).map(sorted),
    st.lists(st.floats() | st.integers(-3, 3), max_size=8),
    st.data(),
)
def test_both_kinds_count_the_same(bounds: list[float], others: list[float], data: st.DataObject) -> None:
    on_bounds = data.draw(st.lists(st.sampled_from(bounds), max_size=4) if bounds else st.just([]))
    native, python = _native.Histogram(tuple(bounds)), plain.Histogram(tuple(bounds))
    for seconds in (*others, *on_bounds):
        native.observe(seconds)
        python.observe(seconds)
    # As text, because no NaN equals another.
    assert repr((native.buckets, native.total)) == repr((python.buckets, python.total))


def test_the_steps_in_c_run_where_they_were_built_from_the_sources_beside_them(tmp_path: Path) -> None:
    assert hot.NATIVE
    (tmp_path / "_native.c").write_text("/* others */")
    assert sources_digest(tmp_path) != _native.DIGEST


@pytest.mark.timeout(300)
def test_one_source_makes_the_steps_for_x86_64_and_for_aarch64(tmp_path: Path) -> None:
    for machine, name in (("x86_64", "EM_X86_64"), ("aarch64", "EM_AARCH64")):
        library = tmp_path / f"{machine}.so"
        builder = [sys.executable, str(ROOT / "build_native.py"), "relay", "--machine", machine, "--out", str(library)]
        subprocess.run(builder, check=True)
        with library.open("rb") as file:
            elf = ELFFile(file)
            names = {symbol.name: symbol["st_shndx"] for symbol in elf.get_section_by_name(".dynsym").iter_symbols()}
            assert elf["e_machine"] == name
        assert [defined for defined, where in names.items() if where != "SHN_UNDEF" and defined] == ["PyInit__native"]
