"""A worker that cannot start, hangs or cannot listen is replaced: its share of the port's clients is never left alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mica_router.core.routes import EMPTY_TABLE
from mica_router.relay.board import Board
from mica_router.settings import RouterSettings
from mica_router.workers.channel import Channel, table_message
from mica_router.workers.supervisor import Supervisor
from mica_router.workers.worker import Worker

from .conftest import eventually, settle, within


def settings(tmp_path: Path, *, port: int = 0) -> RouterSettings:
    routes = tmp_path / "routes.yaml"
    return RouterSettings(host="127.0.0.1", port=port, routes="file", routes_file=routes, workers=1, drain_timeout=0)


def write_worker(path: Path, *, starts: Path) -> None:
    """A program that notes that it was started and never says a word."""
    path.write_text(f"#!/bin/sh\necho started >> '{starts}'\nexec sleep 1000\n")
    path.chmod(0o755)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[None]:
    task = asyncio.ensure_future(supervisor.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_worker_that_could_not_be_started_is_started_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, starts = tmp_path / "worker", tmp_path / "starts"
    supervisor = Supervisor(settings(tmp_path), command=[str(program)])
    async with running(supervisor):
        await eventually(lambda: "worker failed" in "".join(capsys.readouterr()))
        write_worker(program, starts=starts)
        await eventually(lambda: lines(starts) > 0)


async def test_a_worker_that_says_nothing_is_ended_and_replaced(tmp_path: Path) -> None:
    program, starts = tmp_path / "worker", tmp_path / "starts"
    write_worker(program, starts=starts)
    supervisor = Supervisor(settings(tmp_path), command=[str(program)], silence=0.5)
    async with running(supervisor):
        await eventually(lambda: lines(starts) >= 2)


async def test_a_worker_that_cannot_listen_ends(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        supervisor, channel = await Channel.over(ours), await Channel.over(theirs)
        crowded = settings(tmp_path, port=taken.getsockname()[1])
        worker = Worker(crowded, board=Board.create(workers=1), column=0, channel=channel)
        supervisor.send(table_message(EMPTY_TABLE, {}))
        with pytest.raises(OSError, match="in use"):
            await within(worker.listen_to_supervisor())
        supervisor.close()
        channel.close()
        await settle()
