"""What the extender asks of the API server beyond watching it. Decisions see these protocols, tests pass their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from mica_extender.state.records import PodRecord

WRITE_TIMEOUT_S: Final = 3.0
"""After this the sender of a Binding gives up, and the API server gives up this long after the Binding has reached it."""
WRITE_DEAD_AFTER_S: Final = 2 * WRITE_TIMEOUT_S + 1.0
"""A Binding that is not stored this long after ``bind`` was called never will be; the last second is for clocks that differ."""


class BindingRefused(Exception):
    """The API server answered that it did not bind; ``conflict`` when the pod may have changed or be bound already."""

    def __init__(self, message: str, *, conflict: bool) -> None:
        super().__init__(message)
        self.conflict = conflict


class BindingLost(Exception):
    """No usable answer: whether the request was carried out is unknown."""


class PodGone(Exception):
    """There is no such pod (any more): deleted, or its name belongs to another one now."""


class BindingApi(Protocol):
    """Pods, as the bind needs them."""

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        """POST the Binding with the pod's uid and revision as preconditions.

        It is stored within WRITE_DEAD_AFTER_S or never. Raises BindingRefused, or BindingLost when the outcome is unknown.
        """
        ...

    async def read(self, pod: PodRecord) -> PodRecord:
        """The pod as it is stored now, in a consistent read. Raises PodGone (also for another uid) or BindingLost."""
        ...


class EvictionApi(Protocol):
    """Eviction of pods."""

    async def evict(self, *, namespace: str, name: str, uid: str) -> bool:
        """Whether it is done: evicted, or no such pod. False when it has to be tried again."""
        ...


class PokeApi(Protocol):
    """The object whose changes make kube-scheduler try its waiting pods again."""

    async def poke(self, value: str) -> bool:
        """Write a new value. False when it did not work and has to be tried again."""
        ...
