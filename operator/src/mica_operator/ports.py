"""What the operator needs of the cluster. Tests pass other implementations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mica_api.models.common import WantedCondition
from mica_operator.core.decide import WantedStatus
from mica_operator.core.pools import NodeTotals, WantedPoolStatus
from mica_operator.core.views import Observed


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An InferenceService that is stored but cannot be read by this version."""

    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as read: its body for the status write, and what is made of it."""

    body: Mapping[str, Any]
    observed: Observed | Unreadable


class ServiceCluster(Protocol):
    """InferenceServices and what they own. Every method may raise mica_runtime.kube.KubeError."""

    async def observe(self, namespace: str, name: str) -> Seen | None:
        """Everything about a service, or None when it is gone or going."""
        ...

    async def apply(self, body: Mapping[str, Any]) -> None:
        """Server-side apply of an owned object."""
        ...

    async def delete(self, body: Mapping[str, Any]) -> None:
        """Delete an owned object that is no longer wanted, if it is still the one that was seen."""
        ...

    async def write_status(self, seen: Seen, status: WantedStatus) -> bool:
        """Store the status; whether that changed anything."""
        ...


class NameOwners(Protocol):
    """Which model names belong to whom, from a local copy."""

    async def wait_synced(self) -> None:
        """Return once the copy is complete."""
        ...

    def shadowed(self, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
        """Names that a service claims and an older one has, with that one's ``namespace/name``."""
        ...


class PoolCluster(Protocol):
    """VGPUPools. Every method may raise mica_runtime.kube.KubeError."""

    async def read(self, name: str) -> Mapping[str, Any] | None:
        """The pool, or None when it is gone or going."""
        ...

    async def write_status(self, body: Mapping[str, Any], status: WantedPoolStatus) -> bool:
        """Store the status; whether that changed anything."""
        ...

    async def ensure_default(self) -> bool:
        """Create the default pool when there is no pool at all; whether it was created."""
        ...


class Inventory(Protocol):
    """Totals of all nodes that have GPUs, from a local copy."""

    async def wait_synced(self) -> None:
        """Return once the copy is complete."""
        ...

    def totals(self) -> list[NodeTotals]:
        """One entry per node."""
        ...


class EventSink(Protocol):
    """Where a change of a condition is announced to people."""

    def announce(self, body: Mapping[str, Any], condition: WantedCondition) -> None:
        """Ready became true or false, or false for another reason."""
        ...
