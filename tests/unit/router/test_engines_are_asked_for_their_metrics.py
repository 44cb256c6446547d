"""Asking engines: what is kept, what a failure changes, which engines are asked, and the answer over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mica_router.core.engine_metrics import MetricsError
from mica_router.core.engines import Endpoint
from mica_router.scraping import EngineMetrics, HttpMetricsPort

ONE, TWO = Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 2)


class Script:
    """A port whose answers are set by the test; every `wait` of the loops ends when the test says so."""

    def __init__(self) -> None:
        self.answers: dict[Endpoint, bytes | Exception] = {}
        self.asked: list[Endpoint] = []
        self.now = 0.0
        self.rounds = asyncio.Semaphore(0)

    async def fetch(self, endpoint: Endpoint) -> bytes:
        self.asked.append(endpoint)
        answer = self.answers[endpoint]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def wait(self, seconds: float) -> None:
        assert 0.5 < seconds < 1.5
        await self.rounds.acquire()

    def metrics(self) -> EngineMetrics:
        return EngineMetrics(self, clock=lambda: self.now, wait=self.wait)


def running(count: int, *, generated: int = 0) -> bytes:
    return b"vllm:num_requests_running %d\nvllm:generation_tokens_total %d\n" % (count, generated)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


async def test_the_latest_answer_is_kept_with_its_time() -> None:
    script = Script()
    metrics = script.metrics()
    metrics.follow({ONE: "a"})
    assert metrics.gauges(ONE) is None
    script.answers[ONE] = running(3, generated=100)
    script.now = 10.0
    assert await metrics.ask(ONE)
    script.answers[ONE] = running(4, generated=150)
    script.now = 12.0
    assert await metrics.ask(ONE)
    look = metrics.gauges(ONE)
    assert look is not None and (look.age, look.running, look.generation_rate) == (0.0, 4, 25.0)


@pytest.mark.parametrize(
    "failure", [OSError("refused"), UnicodeError("no name"), TimeoutError(), MetricsError("404"), b"nothing known 1\n"]
)
async def test_a_failed_look_is_not_zero(failure: bytes | Exception) -> None:
    script = Script()
    metrics = script.metrics()
    metrics.follow({ONE: "a"})
    script.answers[ONE] = running(3)
    await metrics.ask(ONE)
    script.answers[ONE], script.now = failure, 60.0
    assert not await metrics.ask(ONE)
    look = metrics.gauges(ONE)
    assert look is not None and (look.age, look.running) == (60.0, 3)
    assert metrics.failures == 1


async def test_engines_are_asked_for_as_long_as_they_are_followed() -> None:
    script = Script()
    script.answers = {ONE: running(1), TWO: running(2)}
    metrics = script.metrics()
    metrics.follow({ONE: "a"})
    task = asyncio.create_task(metrics.run())
    await until(lambda: metrics.gauges(ONE) is not None)
    metrics.follow({TWO: "a"})
    await until(lambda: metrics.gauges(TWO) is not None)
    assert metrics.gauges(ONE) is None
    script.asked.clear()
    script.rounds.release()
    await until(lambda: bool(script.asked))
    assert script.asked == [TWO]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_learned_lives_as_long_as_its_group() -> None:
    metrics = Script().metrics()
    metrics.follow({ONE: "a"})
    rates = metrics.rates("a")
    metrics.follow({TWO: "a"})
    assert metrics.rates("a") is rates
    metrics.follow({})
    assert metrics.rates("a") is not rates


async def test_an_answer_that_arrives_after_its_engine_has_gone_is_dropped() -> None:
    script = Script()
    metrics = script.metrics()
    script.answers[ONE] = running(1)
    assert not await metrics.ask(ONE)
    assert metrics.gauges(ONE) is None


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(answer: bytes) -> Answering:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return serve


async def fetched(answering: Answering, *, deadline: float = 5.0, limit: int = 10_000) -> bytes:
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        return await HttpMetricsPort(deadline=deadline, limit=limit).fetch(Endpoint("127.0.0.1", port))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\na 1\n",
    ],
)
async def test_the_text_is_read_however_it_is_framed(answer: bytes) -> None:
    assert await fetched(says(answer)) == b"a 1\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n", "answered with 501; start the engine with its metrics on"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\nvllm:num_requests_running 1", "ends in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na 12\n\r\n", "ends in the middle"),
        (b"HTTP/1.0 200 OK\r\n\r\nvllm:num_requests_running 1", "in the middle of a line"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", "compressed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n\x1f\x8b\r\n0\r\n\r\n", "compressed"),
        (b"", "before the answer began"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000, "larger than 10000"),
    ],
)
async def test_another_answer_is_told_in_words(answer: bytes, words: str) -> None:
    with pytest.raises(MetricsError, match=words):
        await fetched(says(answer))


async def test_an_engine_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    with pytest.raises(TimeoutError):
        await fetched(silent, deadline=0.05)
    await asyncio.wait_for(gone.wait(), 5)
