"""Asking engines for their `/metrics`, each in a loop of its own: the latest answer of each, and what was learned of tiers.

A look that fails changes nothing: the last reading gets older, and whoever decides leaves out what is too old. Only engines of
services that decide by metrics are asked. Not here: what the text means (`core.engine_metrics`), what is decided from it
(`core.tiers_decide`).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import httptools

from mica_router.core.choice import EngineGauges
from mica_router.core.engine_metrics import MAX_BYTES, MetricsError, Reading, gauges, learn, parse_metrics
from mica_router.core.engines import Endpoint
from mica_router.core.rates import Rates
from mica_router.ports import Clock
from mica_runtime.logging import get_logger

INTERVAL_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 2.0
_log = get_logger(__name__)

Wait = Callable[[float], Awaitable[None]]


class MetricsPort(Protocol):
    """How the text is got."""

    async def fetch(self, endpoint: Endpoint) -> bytes:
        """The body of `GET /metrics`. Raises OSError, TimeoutError, UnicodeError (a host that is no name) or MetricsError."""


@dataclass(frozen=True, slots=True)
class Look:
    """The latest answer of one engine. `at` is a time of the clock."""

    at: float
    reading: Reading
    gauges: EngineGauges


class EngineMetrics:
    """Latest gauges per engine and learned rates per group of engines (a tier of a service). One event loop owns them."""

    def __init__(
        self,
        port: MetricsPort,
        *,
        clock: Clock,
        interval: float = INTERVAL_SECONDS,
        wait: Wait = asyncio.sleep,
    ) -> None:
        self._port = port
        self._clock = clock
        self._interval = interval
        self._wait = wait
        self._groups: dict[Endpoint, Hashable] = {}
        self._looks: dict[Endpoint, Look] = {}
        self._rates: dict[Hashable, Rates] = {}
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._failing: set[Endpoint] = set()
        self._running = False
        self.failures = 0

    def gauges(self, endpoint: Endpoint) -> EngineGauges | None:
        """The latest answer with its age, however old; None when there was none."""
        look = self._looks.get(endpoint)
        return None if look is None else look.gauges._replace(age=self._clock() - look.at)

    def rates(self, group: Hashable) -> Rates:
        """What was learned of a group; empty at first."""
        found = self._rates.get(group)
        if found is None:
            found = self._rates[group] = Rates()
        return found

    def follow(self, groups: Mapping[Endpoint, Hashable]) -> None:
        """Ask these engines from now on, and no others. A group that keeps an engine keeps what was learned."""
        self._groups = dict(groups)
        kept = set(groups.values())
        self._rates = {group: rates for group, rates in self._rates.items() if group in kept}
        self._looks = {endpoint: look for endpoint, look in self._looks.items() if endpoint in groups}
        self._failing &= groups.keys()
        for endpoint in self._tasks.keys() - groups.keys():
            self._tasks.pop(endpoint).cancel()
        if self._running:
            self._start_missing()

    async def run(self) -> None:
        """Until cancelled."""
        self._running = True
        self._start_missing()
        try:
            await asyncio.Event().wait()
        finally:
            self._running = False
            for task in self._tasks.values():
                task.cancel()
            self._tasks.clear()

    async def ask(self, endpoint: Endpoint) -> bool:
        """One look at one engine; whether it answered with something that is understood."""
        try:
            reading = parse_metrics(await self._port.fetch(endpoint))
        except Exception as error:
            # Whatever it is: this engine is asked again, and nobody else would start its loop anew.
            self._note_failure(endpoint, error)
            return False
        if endpoint not in self._groups:
            return False
        if endpoint in self._failing:
            self._failing.discard(endpoint)
            _log.info("metrics of an engine can be read again", engine=endpoint.authority)
        self._store(endpoint, reading)
        return True

    def _store(self, endpoint: Endpoint, reading: Reading) -> None:
        now, before = self._clock(), self._looks.get(endpoint)
        previous = before.reading if before is not None else None
        seconds = now - before.at if before is not None else 0.0
        self._looks[endpoint] = Look(now, reading, gauges(reading, previous, seconds=seconds))
        if previous is not None:
            learn(self.rates(self._groups[endpoint]), reading, previous)

    def _note_failure(self, endpoint: Endpoint, error: Exception) -> None:
        self.failures += 1
        if endpoint in self._groups and endpoint not in self._failing:
            self._failing.add(endpoint)
            _log.warning("metrics of an engine cannot be read", engine=endpoint.authority, error=repr(error))

    def _start_missing(self) -> None:
        loop = asyncio.get_running_loop()
        for endpoint in self._groups.keys() - self._tasks.keys():
            self._tasks[endpoint] = loop.create_task(self._keep_asking(endpoint))

    async def _keep_asking(self, endpoint: Endpoint) -> None:
        while True:
            await self.ask(endpoint)
            # Spread, so that engines are not asked in step with each other or with other routers.
            await self._wait(self._interval * random.uniform(0.8, 1.2))


class HttpMetricsPort:
    """`MetricsPort` by one connection per look, which is closed after it."""

    def __init__(self, *, deadline: float = _TIMEOUT_SECONDS, limit: int = MAX_BYTES, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: trust in engines that speak TLS; None: the system's."""
        self._tls = tls
        self._timeout = deadline
        self._limit = limit

    async def fetch(self, endpoint: Endpoint) -> bytes:
        """See MetricsPort."""
        async with asyncio.timeout(self._timeout):
            if endpoint.tls and self._tls is None:
                self._tls = ssl.create_default_context()  # takes 20 ms: made once, when the first engine needs it
            tls = self._tls if endpoint.tls else None
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls)
            try:
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % endpoint.authority.encode())
                return await self._read(reader)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        answer = _Answer(self._limit)
        while not answer.complete:
            data = await reader.read(65536)
            if not data:
                answer.ended()
                break
            answer.feed(data)
        return answer.text()


class _Answer:
    """Callbacks of httptools: body of one response, bounded."""

    def __init__(self, limit: int) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._limit = limit
        self._body = bytearray()
        self.complete = False
        self._headed = False
        self._framed = False
        self._coded = False

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise MetricsError(f"the answer is not HTTP/1.1: {error}") from error
        if len(self._body) > self._limit:
            raise MetricsError(f"the answer is larger than {self._limit} bytes")

    def text(self) -> bytes:
        if not self._headed:
            raise MetricsError("the connection ended before the answer began")
        status = self._parser.get_status_code()
        if not self.complete:
            raise MetricsError("the answer ends in the middle: half a number must not become load")
        if not self._framed and not self._body.endswith(b"\n"):
            raise MetricsError("the answer ends in the middle of a line")
        if self._coded:
            raise MetricsError("the answer is compressed, which was not asked for")
        if status != 200:
            raise MetricsError(f"GET /metrics is answered with {status}; start the engine with its metrics on")
        return bytes(self._body)

    def ended(self) -> None:
        """The connection ended: the answer's end too, if nothing else frames it."""
        self.complete = self.complete or (self._headed and not self._framed)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._framed = self._framed or name in (b"content-length", b"transfer-encoding")
        coded = name == b"content-encoding" and value.strip().lower() != b"identity"
        self._coded = self._coded or coded or (name == b"transfer-encoding" and value.strip().lower() != b"chunked")

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, body: bytes) -> None:
        if len(self._body) <= self._limit:
            self._body += body

    def on_message_complete(self) -> None:
        self.complete = True
