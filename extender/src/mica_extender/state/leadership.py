"""Whether this process may decide: its kube-scheduler leads, and nothing that an earlier leader sent can arrive any more.

The scheduler elects its leader with a Lease; this process decides only while its own pod holds it. The Lease's times are another
machine's clock, so what counts is how long ago, on ours, a renewal was last seen. Not a fence: a process that was frozen may act
on what it knew before. The node agent refuses what does not fit, whoever decided it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from mica_extender.ports import WRITE_DEAD_AFTER_S
from mica_extender.state.records import LeaseRecord
from mica_runtime.logging import get_logger
from mica_runtime.reflector import Change

_log = get_logger(__name__)
LOOK_EVERY_S: Final = 0.5


class Leadership(Protocol):
    """Asked before every decision."""

    def leading(self) -> bool:
        """Whether this replica may decide now."""
        ...

    def term(self) -> str:
        """Which spell of leadership this is; empty when this replica may not decide. Two spells have two names."""
        ...


class LeaseWatch:
    """The scheduler's Lease, fed by a watch of it. The holder is ``<pod name>_<random>``."""

    def __init__(self, pod_name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefix = f"{pod_name}_"
        self._clock = clock
        self._lease: LeaseRecord | None = None
        self._seen_at = 0.0

    def apply(self, change: Change[LeaseRecord]) -> None:
        """The Lease appeared, changed or went away."""
        old, new = self._lease, change.new
        if new is not None and (old is None or (old.renewed, old.holder) != (new.renewed, new.holder)):
            self._seen_at = self._clock()
        self._lease = new

    def leading(self) -> bool:
        """Whether our pod holds the Lease and was seen to renew it within its duration."""
        return self.term() != ""

    def term(self) -> str:
        """See Leadership. The holder's name is random for every start of a scheduler, and the Lease counts its holders."""
        lease = self._lease
        if lease is None or not lease.holder.startswith(self._prefix):
            return ""
        if self._clock() - self._seen_at >= lease.duration_s:
            return ""
        return f"{lease.holder}/{lease.transitions}"


class AlwaysLeading:
    """Leadership of the only replica there is; must be asked for explicitly in the settings."""

    def leading(self) -> bool:
        """Always."""
        return True

    def term(self) -> str:
        """The one that never ends."""
        return "always"


class Takeover:
    """Leadership that begins late: once the last write of the leader before us has landed or died, and a list has shown it.

    The leader before us may be this very process before it was killed, or another replica; what either had under way is unknown.
    The time is measured on our clock, from the moment at which we see that we lead: an earlier leader sends nothing after that.
    ``refresh`` returns once our copies hold everything that was stored when it was called.
    """

    def __init__(
        self, election: Leadership, refresh: Callable[[], Awaitable[None]], *, outwait_s: float = WRITE_DEAD_AFTER_S
    ) -> None:
        self._election = election
        self._refresh = refresh
        self._outwait_s = outwait_s
        self._taken_over = ""

    def leading(self) -> bool:
        """See Leadership."""
        return self.term() != ""

    def term(self) -> str:
        """See Leadership."""
        term = self._election.term()
        return term if term == self._taken_over else ""

    async def run(self) -> None:
        """Take over whenever there is something to take over, until cancelled."""
        while True:
            term = self._election.term()
            if term in ("", self._taken_over):
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            await asyncio.sleep(self._outwait_s)
            await self._refresh()
            if self._election.term() == term:
                self._taken_over = term
                _log.info("decisions begin", term=term, waited_s=self._outwait_s)
