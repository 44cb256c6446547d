"""What the relay needs from outside, as small protocols: tests pass other implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mica_router.core.engines import Endpoint
from mica_router.core.routes import RouteTable, ServiceKey

Clock = Callable[[], float]
Publish = Callable[[RouteTable], None]


class RouteSource(Protocol):
    """Where routes come from. `run` publishes a table as soon as it knows one, then again at every change, until cancelled."""

    async def run(self, publish: Publish) -> None:
        """Raises `RouteSourceError` when it cannot ever publish; the process then ends."""


Counted = Endpoint | ServiceKey


class Counts(Protocol):
    """Requests per engine, and requests held per service, of all workers of this router."""

    def add(self, counted: Counted, by: int, /) -> None:
        """One more or one less, of this worker's."""

    def get(self, counted: Counted, /) -> int:
        """How many, of all workers."""


class RouteSourceError(Exception):
    """The routes cannot be read, with words for the person who has to change something."""
