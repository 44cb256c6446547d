"""What every connection of one router process shares. Made once by `mica_router.app`, or by a test."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mica_router.core.choice import Chooser
from mica_router.core.continuation import NoBook, ResumeBook
from mica_router.core.policies import PolicyChooser
from mica_router.core.request import RequestLimits
from mica_router.core.routes import EMPTY_TABLE, RouteTable
from mica_router.core.routing import EngineDeadlines
from mica_router.metrics import RouterMetrics
from mica_router.ports import Clock
from mica_router.relay.budget import Budget
from mica_router.relay.load import Load
from mica_router.relay.pool import Pool
from mica_router.relay.side_call import SideCalls

if TYPE_CHECKING:
    from mica_router.relay.connection import ClientConnection

DEFAULT_BUDGET: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines in seconds.

    `head` and `body` bound how long a client may take to send; `keep_alive` how long an idle client connection stays;
    `connect`, `first_byte` and `idle` bound the engine: connection, silence before and during the answer. `idle` also bounds how
    long a client may refuse to read.
    """

    head: float = 10.0
    body: float = 60.0
    keep_alive: float = 75.0
    connect: float = 2.0
    first_byte: float = 600.0
    idle: float = 300.0


class Deadlines(NamedTuple):
    """Seconds towards an engine, of one service."""

    connect: float
    first_byte: float
    idle: float


@dataclass(slots=True, kw_only=True)
class RelayContext:
    """Shared state of the data path.

    `table` is replaced as a whole by the route source. `access_log_sample`: the share of requests that are logged, 0…1.
    """

    clock: Clock
    load: Load
    metrics: RouterMetrics
    pool: Pool
    limits: RequestLimits = field(default_factory=RequestLimits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    budget: Budget = field(default_factory=lambda: Budget(DEFAULT_BUDGET))
    chooser: Chooser = field(default_factory=PolicyChooser)
    book: ResumeBook = field(default_factory=NoBook)
    retry_after: int = 2
    access_log_sample: float = 0.0
    table: RouteTable = EMPTY_TABLE
    draining: bool = False
    connections: set[ClientConnection] = field(default_factory=set)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    _own_deadlines: tuple[EngineDeadlines | None, Deadlines] = (None, Deadlines(0, 0, 0))

    def deadlines(self, own: EngineDeadlines) -> Deadlines:
        """Deadlines towards engines, of a service that may have its own. The last answer is kept."""
        if own is not self._own_deadlines[0]:
            process = self.timeouts
            found = Deadlines(
                process.connect if own.connect is None else own.connect,
                process.first_byte if own.first_byte is None else own.first_byte,
                process.idle if own.idle is None else own.idle,
            )
            self._own_deadlines = (own, found)
        return self._own_deadlines[1]

    @property
    def side_calls(self) -> SideCalls:
        """Small requests to engines beside the relay."""
        return SideCalls(self.pool)

    def note_connections(self) -> None:
        """Call when a connection ended: says when a drain is over."""
        if self.draining and not self.connections:
            self.emptied.set()
