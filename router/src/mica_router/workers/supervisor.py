"""Starts the workers, keeps them alive, tells them routes and probes, adds up their numbers. Relays nothing itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic

from mica_router.core.engines import Endpoint
from mica_router.core.routes import EMPTY_TABLE, RouteTable
from mica_router.exposition import Snapshot, add, keep_models
from mica_router.ports import Counted
from mica_router.relay.board import Board, Rows
from mica_router.settings import RouterSettings
from mica_router.workers.channel import Channel, Ejected, Listening, Message, Numbers, Probed, table_message
from mica_runtime.logging import get_logger

_SHORTEST_LIFE = 5.0
_KILLED_WITHIN_S = 1.0
_LONGEST_PAUSE = 5.0
_LONGEST_SILENCE = 30.0
_COMMAND = (sys.executable, "-m", "mica_router.workers.worker")
_log = get_logger(__name__)


class _Worker:
    """One column: the process that has it now, and what the last ones counted."""

    def __init__(self, column: int) -> None:
        self.column = column
        self.channel: Channel | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.listening = False
        self.numbers = Snapshot()
        self.ejected: list[Endpoint] = []


class Supervisor:
    """`run` until cancelled; the workers then drain. `command` starts one; after `silence` seconds without a word it is hung."""

    def __init__(self, settings: RouterSettings, *, command: Sequence[str] = _COMMAND, silence: float = _LONGEST_SILENCE) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._silence = silence
        self._board = Board.create(workers=settings.workers)
        self._rows = Rows(self._board)
        self._port = settings.port
        self._workers = [_Worker(column) for column in range(settings.workers)]
        self._past: list[Snapshot] = []
        self._stopping = False
        self.table: RouteTable = EMPTY_TABLE
        self.synced = False

    # What the process tells them.

    def publish(self, table: RouteTable) -> None:
        """A new table, to all."""
        self.table = table
        self.synced = True
        # What workers that died had counted; those that live forget for themselves.
        self._past = [keep_models(past, table.public_names()) for past in self._past]
        message = self._table()
        self._tell(message)

    def probed(self, endpoint: Endpoint, alive: bool) -> None:
        """What a probe found, to all."""
        self._tell(Probed(endpoint, alive))

    def _table(self) -> Message:
        return table_message(self.table, self._assigned())

    def _assigned(self) -> Mapping[Counted, int]:
        return self._rows.assign([*self.table.endpoints(), *self.table.by_key])

    def _tell(self, message: Message, *, but: _Worker | None = None) -> None:
        for worker in self._workers:
            if worker.channel is not None and worker is not but:
                worker.channel.send(message)

    # What they tell.

    @property
    def port(self) -> int:
        """The shared port, also when 0 was asked for."""
        return self._port

    @property
    def listening(self) -> bool:
        """Whether somebody accepts clients."""
        return any(worker.listening for worker in self._workers)

    @property
    def draining(self) -> bool:
        """Whether the end has begun."""
        return self._stopping

    def in_flight(self, endpoint: Endpoint) -> int:
        """Of all workers."""
        row = self._assigned().get(endpoint)
        return 0 if row is None else self._board.total(row)

    def fitness(self) -> Mapping[Endpoint, float]:
        """Engines that every worker which has an opinion has taken out."""
        lists = [set(worker.ejected) for worker in self._workers if worker.listening]
        return dict.fromkeys(set.intersection(*lists), 0.0) if lists else {}

    def snapshot(self) -> Snapshot:
        """Numbers of all, those of workers that died included. As old as the last report, a quarter of a second."""
        return add([*self._past, *(worker.numbers for worker in self._workers)])

    # Keeping them alive.

    async def run(self) -> None:
        """Raises OSError when the port cannot be had."""
        with reserve_port(self._settings.host, self._settings.port) as reserved:
            self._port = reserved.getsockname()[1]
            tasks = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
            _log.info("serving", host=self._settings.host, port=self._port, workers=len(tasks))
            try:
                await asyncio.Event().wait()
            finally:
                await self._stop(tasks)

    async def _keep(self, worker: _Worker) -> None:
        pause = 0.1
        while not self._stopping:
            started = monotonic()
            try:
                await self._live(worker)
            except Exception:
                # Perhaps there is no memory for a process right now. This loop must outlive it: nobody else starts another.
                _log.exception("worker failed", column=worker.column)
            if self.draining:
                return
            pause = 0.1 if monotonic() - started > _SHORTEST_LIFE else min(pause * 2, _LONGEST_PAUSE)
            _log.error("worker ended, another one is started", column=worker.column, seconds=pause)
            await asyncio.sleep(pause)

    async def _live(self, worker: _Worker) -> None:
        """One process, from its start to its end."""
        ours, theirs = socket.socketpair()
        try:
            process = worker.process = await self._start(worker.column, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker.channel = await Channel.over(ours)
        if self.synced:
            worker.channel.send(self._table())
        try:
            await self._hear(worker, worker.channel)
            await process.wait()
        finally:
            # One that is alive after a failure must not go on counting in a column that is another's.
            _signal(process, signal.SIGKILL)
            worker.channel.close()
            worker.channel, worker.listening, worker.ejected = None, False, []
            self._board.clear_column(worker.column)
            self._bury(worker)

    async def _hear(self, worker: _Worker, channel: Channel) -> None:
        """Until the worker is gone. One that says nothing is hung, holds its share of the clients, and is ended."""
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    message = await channel.receive()
            except TimeoutError:
                # While it drains it says nothing, and `_stop` looks after it.
                if worker.process is not None and not self._stopping:
                    _log.error("worker is hung and is ended", column=worker.column, seconds=self._silence)
                    _signal(worker.process, signal.SIGKILL)
                return
            if message is None:
                return
            if isinstance(message, Listening):
                worker.listening = True
            elif isinstance(message, Numbers):
                worker.numbers, worker.ejected = message.snapshot, message.ejected
            elif isinstance(message, Ejected):
                self._tell(message, but=worker)

    def _bury(self, worker: _Worker) -> None:
        """Counters of the dead stay; what it had at the moment of its death is gone with it."""
        last = worker.numbers
        self._past = [add([*self._past, Snapshot(counters=last.counters, histograms=last.histograms)])]
        worker.numbers = Snapshot()

    async def _start(self, column: int, channel: int) -> asyncio.subprocess.Process:
        arguments = ("--board", str(self._board.file), "--channel", str(channel), "--column", str(column))
        return await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            env={**os.environ, "MICA_PORT": str(self._port)},
            pass_fds=(self._board.file, channel),
        )

    async def _stop(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        self._stopping = True
        await self._end(signal.SIGTERM, within=self._settings.drain_timeout + 1.0)
        tasks = list(tasks)
        for task in tasks:
            task.cancel()
        # A worker that is being started right now belongs to nobody yet but its task.
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end(signal.SIGKILL, within=_KILLED_WITHIN_S)

    async def _end(self, number: signal.Signals, *, within: float) -> None:
        """Tell all workers to end, and wait for that."""
        processes = [worker.process for worker in self._workers if worker.process is not None]
        for process in processes:
            _signal(process, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(*(process.wait() for process in processes))


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket that has the port and does not listen, so that workers can share it and nobody else takes it. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:
            _check_free(family, host, port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _check_free(family: socket.AddressFamily, host: str, port: int) -> None:
    """Another program that shares its port would take half of our clients."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
