"""One worker: the relay and nothing else. `python -m mica_router.workers.worker --board FD --channel FD --column N`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import socket
from contextlib import suppress

from mica_router.assembly import Relay, client_tls
from mica_router.exposition import take_snapshot
from mica_router.relay.board import Board, SharedCounts
from mica_router.settings import RouterSettings
from mica_router.workers.channel import Channel, Ejected, Listening, Numbers, Probed, Table, table_of
from mica_runtime import logging, service
from mica_runtime.service import run_parts

NUMBERS_SECONDS = 0.25


class Worker:
    """Follows its supervisor, and ends when that is gone."""

    def __init__(self, settings: RouterSettings, *, board: Board, column: int, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._counts = SharedCounts(board, column=column)
        self.relay = Relay(settings, counts=self._counts)
        self._health = self.relay.context.load.health
        self._health.announce = lambda endpoint, reason: channel.send(Ejected(endpoint, reason))

    async def listen_to_supervisor(self) -> None:
        """Apply tables and probes. Returns when the supervisor is gone, which ends the process, as does a port that is taken."""
        listens = False
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Table):
                self._counts.use(message.board)
                self.relay.publish(table_of(message))
                if not listens:
                    listens = True
                    await self._listen()
            elif isinstance(message, Probed):
                self._health.probed(message.endpoint, alive=message.alive)
            elif isinstance(message, Ejected):
                self._health.ejected_elsewhere(message.endpoint, message.reason)

    async def _listen(self) -> None:
        settings = self._settings
        followed, tls = client_tls(settings), None
        if followed is not None:
            tls = followed.context
            self._following = asyncio.create_task(followed.follow())
        await self.relay.server.start(host=settings.host, port=settings.port, shared=True, tls=tls)
        self._channel.send(Listening())

    async def tell_numbers(self) -> None:
        """Until cancelled."""
        while True:
            self.send_numbers()
            await asyncio.sleep(NUMBERS_SECONDS)

    def send_numbers(self) -> None:
        """What the supervisor adds up."""
        context = self.relay.context
        ejected = [endpoint for endpoint, fitness in context.load.fitness.items() if fitness == 0]
        self._channel.send(Numbers(take_snapshot(context), ejected))

    async def drain(self) -> None:
        """Wait for the end, then let streams end."""
        try:
            await asyncio.Event().wait()
        finally:
            telling = asyncio.create_task(self.tell_numbers())  # streams that still run count as demand
            await self.relay.server.drain(seconds=self._settings.drain_timeout)
            telling.cancel()
            self.send_numbers()
            with suppress(OSError):
                self._channel.close()


async def start(board_file: int, channel_file: int, column: int) -> None:
    """Run until SIGTERM."""
    settings = RouterSettings.from_environment()
    logging.configure(component="router-worker", level=settings.log_level)
    board = Board(board_file, workers=settings.workers)
    channel = await Channel.over(socket.socket(fileno=channel_file))
    worker = Worker(settings, board=board, column=column, channel=channel)
    gc.freeze()  # what was imported lives as long as the process: no collection has to look at it again
    await run_parts(
        worker.listen_to_supervisor(),
        worker.tell_numbers(),
        worker.relay.scrape(),
        worker.drain(),
        grace=settings.drain_timeout + 1.5,
    )


def main() -> None:
    """Started by the supervisor only."""
    parser = argparse.ArgumentParser(prog="python -m mica_router.workers.worker")
    for name in ("board", "channel", "column"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    service.main("router-worker", lambda: start(given.board, given.channel, given.column))


if __name__ == "__main__":
    main()
