"""A scripted engine, a raw client and a relay over real loopback sockets, with a clock that only tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
import uvloop

from mica_router.core.engines import Endpoint, Engine, Kind
from mica_router.core.request import RequestLimits
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import DEFAULT_ROUTING, Routing
from mica_router.metrics import RouterMetrics
from mica_router.relay.context import RelayContext, Timeouts
from mica_router.relay.load import Load
from mica_router.relay.pool import Pool
from mica_router.relay.server import RelayServer

PATIENCE = 30.0


T = TypeVar("T")


async def within(awaitable: Awaitable[T]) -> T:
    """The result, or a failure instead of a hang."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


@dataclass
class EngineRequest:
    """What an engine received. `gone` is set when the peer hung up."""

    head: bytes
    body: bytes
    connection: int
    gone: asyncio.Event


Script = Callable[[EngineRequest, asyncio.StreamWriter], Awaitable[None]]

JSON_ANSWER = b'{"id":"x","choices":[]}'
OK_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(JSON_ANSWER),
    JSON_ANSWER,
)


async def answer_ok(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(OK_RESPONSE)


async def die_silently(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    await request.gone.wait()


class ScriptedEngine:
    """An HTTP engine that does to the byte what its script says. `script` may be replaced at any time."""

    def __init__(self) -> None:
        self.script: Script = answer_ok
        self.requests: list[EngineRequest] = []
        self.arrived: asyncio.Queue[EngineRequest] = asyncio.Queue()
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, host, port)

    @property
    def endpoint(self) -> Endpoint:
        assert self._server is not None
        return Endpoint("127.0.0.1", self._server.sockets[0].getsockname()[1])

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._writers.append(writer)
        try:
            await self._serve(reader, writer, connection=self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, connection: int) -> None:
        first = b""
        while True:
            head = first + await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(content_length(head))
            request = EngineRequest(head, body, connection, asyncio.Event())
            self.requests.append(request)
            self.arrived.put_nowait(request)
            watch = asyncio.ensure_future(reader.read(1))
            watch.add_done_callback(lambda done, gone=request.gone: _note_end(done, gone))
            try:
                await self.script(request, writer)
                await writer.drain()
                first = await watch
            finally:
                watch.cancel()
            if not first:
                return


def _note_end(watch: asyncio.Future[bytes], gone: asyncio.Event) -> None:
    if watch.cancelled() or watch.exception() is not None or not watch.result():
        gone.set()


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


@dataclass
class RawResponse:
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.lower().encode():
                return value.strip().decode()
        return None


@dataclass
class RawClient:
    """Sends bytes, reads responses. Bodies keep their transfer coding."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, bodyless: bool = False) -> RawResponse:
        head = await within(self.reader.readuntil(b"\r\n\r\n"))
        if bodyless:
            return RawResponse(head, b"")
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            return RawResponse(head, await within(self.reader.readuntil(b"0\r\n\r\n")))
        if b"content-length:" in lowered:
            return RawResponse(head, await within(self.reader.readexactly(content_length(head))))
        return RawResponse(head, await within(self.reader.read()))

    async def ended(self) -> bytes:
        """What still came before the connection ended, cleanly or by reset."""
        try:
            return await within(self.reader.read())
        except ConnectionError:
            return b""

    def hang_up(self) -> None:
        self.writer.transport.abort()


class ManualClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Bench:
    """A running relay with its clock and everything that must be closed after the test."""

    clock: ManualClock
    context: RelayContext
    server: RelayServer
    engines: list[ScriptedEngine] = field(default_factory=list)
    clients: list[RawClient] = field(default_factory=list)

    async def engine(self, engine: ScriptedEngine | None = None) -> ScriptedEngine:
        """Start an engine: a given one, or one that answers everything alike."""
        engine = engine or ScriptedEngine()
        await engine.start()
        self.engines.append(engine)
        return engine

    def route(
        self,
        *engines: ScriptedEngine,
        model: str = "chat",
        namespace: str = "team-a",
        routing: Routing = DEFAULT_ROUTING,
        kind: Kind = "other",
    ) -> None:
        """Serve `model` by these engines, beside what is served already."""
        service = Service(
            key=ServiceKey(namespace, model),
            model=model,
            created=1,
            engines=tuple(Engine(endpoint=engine.endpoint, kind=kind) for engine in engines),
            routing=routing,
        )
        others = [r.service for r in self.context.table.listed if r.service.key != service.key]
        self.server.publish(build_table([*others, service]))

    async def client(self) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        client = RawClient(reader, writer)
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> RawResponse:
        client = await self.client()
        client.send(data)
        return await client.response()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.sweep()


async def settle() -> None:
    """Let everything that is ready in the loop happen, without letting time pass."""
    for _ in range(50):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool], *, patience: float = PATIENCE) -> None:
    """Let the loop work until `condition` holds; fails instead of hanging."""
    async with asyncio.timeout(patience):
        for _ in iter(condition, True):
            await asyncio.sleep(0)


def post(body: bytes, *, path: str = "/v1/chat/completions", headers: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: r\r\n%sContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        headers,
        len(body),
        body,
    )


CHAT = b'{"model": "chat", "messages": []}'


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of production; its transports are not asyncio's."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    context = RelayContext(
        clock=clock,
        load=Load(clock),
        metrics=RouterMetrics(),
        pool=Pool(clock=clock),
        limits=RequestLimits(head=4096, body=256 * 1024),
        timeouts=Timeouts(),
    )
    server = RelayServer(context)
    await server.start(host="127.0.0.1", port=0)
    running = Bench(clock, context, server)
    yield running
    for client in running.clients:
        client.hang_up()
    for engine in running.engines:
        await engine.stop()
    await server.drain(seconds=0.05)
    await settle()
