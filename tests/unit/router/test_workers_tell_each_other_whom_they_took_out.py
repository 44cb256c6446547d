"""An engine that one worker has taken out is out for all workers of the router at once."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from pathlib import Path

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.relay.board import Board
from mica_router.settings import RouterSettings
from mica_router.workers.channel import Channel, Ejected
from mica_router.workers.supervisor import Supervisor
from mica_router.workers.worker import Worker

from .conftest import eventually, settle, within

ENGINES = [Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)]

PROGRAM = """
import argparse, asyncio, pathlib, socket
from mica_router.core.engines import Endpoint
from mica_router.workers.channel import Channel, Ejected

parser = argparse.ArgumentParser()
for name in ("board", "channel", "column"):
    parser.add_argument(f"--{name}", type=int)
given = parser.parse_args()

async def tell(channel):
    while True:
        channel.send(Ejected(Endpoint("10.0.0.1", 80), "reset"))
        await asyncio.sleep(0.02)

async def run():
    channel = await Channel.over(socket.socket(fileno=given.channel))
    telling = asyncio.create_task(tell(channel)) if given.column == 0 else None
    while (message := await channel.receive()) is not None:
        with pathlib.Path("OUT").open("a") as out:
            print(given.column, message.endpoint.host, message.reason, file=out)

asyncio.run(run())
"""


def settings(tmp_path: Path, *, workers: int) -> RouterSettings:
    routes = tmp_path / "routes.yaml"
    return RouterSettings(host="127.0.0.1", port=0, routes="file", routes_file=routes, workers=workers, drain_timeout=0)


async def test_a_worker_tells_and_follows(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    supervisor, channel = await Channel.over(ours), await Channel.over(theirs)
    worker = Worker(settings(tmp_path, workers=1), board=Board.create(workers=1), column=0, channel=channel)
    key = ServiceKey("default", "chat")
    table = build_table([Service(key=key, model="chat", engines=tuple(Engine(endpoint=endpoint) for endpoint in ENGINES))])
    worker.relay.publish(table)
    health = worker.relay.context.load.health
    health.fault(ENGINES[0], "connect")
    assert await within(supervisor.receive()) == Ejected(ENGINES[0], "connect")
    listening = asyncio.ensure_future(worker.listen_to_supervisor())
    supervisor.send(Ejected(ENGINES[1], "connect"))
    await eventually(lambda: health.fitness == dict.fromkeys(ENGINES, 0.0))
    supervisor.close()
    with suppress(asyncio.CancelledError):
        await within(listening)
    await worker.relay.server.drain(seconds=0)
    channel.close()
    await settle()


async def test_the_supervisor_passes_it_on_to_the_others_only(tmp_path: Path) -> None:
    out, program = tmp_path / "out", tmp_path / "worker.py"
    program.write_text(PROGRAM.replace("OUT", str(out)))
    supervisor = Supervisor(settings(tmp_path, workers=3), command=[sys.executable, str(program)])
    task = asyncio.ensure_future(supervisor.run())

    def told() -> set[str]:
        return set(out.read_text().splitlines()) if out.exists() else set()

    await eventually(lambda: len(told()) == 2, patience=60)  # three interpreters start meanwhile
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert told() == {"1 10.0.0.1 reset", "2 10.0.0.1 reset"}
