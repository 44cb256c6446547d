"""Whether the kube-scheduler beside this process is the one that schedules.

The scheduler elects its leader with a Lease; this process decides only while its own pod holds it. The Lease's times are another
machine's clock, so what counts is how long ago, on ours, a renewal was last seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from mica_extender.state.records import LeaseRecord
from mica_runtime.reflector import Change


class Leadership(Protocol):
    """Asked before every decision."""

    def leading(self) -> bool:
        """Whether this replica may decide now."""
        ...


class LeaseWatch:
    """Leadership by the scheduler's Lease, fed by a watch of it. The holder is ``<pod name>_<random>``."""

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
        lease = self._lease
        if lease is None or not lease.holder.startswith(self._prefix):
            return False
        return self._clock() - self._seen_at < lease.duration_s


class AlwaysLeading:
    """Leadership of the only replica there is; must be asked for explicitly in the settings."""

    def leading(self) -> bool:
        """Always."""
        return True
