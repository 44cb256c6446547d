"""Active probes: `GET /health` of every engine at an interval. Any answer below 500 is life: not every engine has the path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from mica_router.core.engines import Endpoint
from mica_router.relay.side_call import SideCalls
from mica_runtime.logging import get_logger

_AT_ONCE = 64
_log = get_logger(__name__)


class Prober:
    """Probes what `endpoints` names when a round begins, and tells `found`."""

    def __init__(
        self,
        calls: SideCalls,
        *,
        endpoints: Callable[[], Iterable[Endpoint]],
        found: Callable[[Endpoint, bool], None],
        interval: float,
        deadline: float,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._calls = calls
        self._endpoints = endpoints
        self._found = found
        self._interval = interval
        self._deadline = deadline
        self._wait = wait
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.round()
            await self._wait(self._interval)

    async def round(self) -> None:
        """Probe every engine once."""
        await asyncio.gather(*(self._probe(endpoint) for endpoint in list(self._endpoints())))

    async def _probe(self, endpoint: Endpoint) -> None:
        async with self._slots:
            try:
                reply = await self._calls.get(endpoint, "/health", seconds=self._deadline)
            except Exception as error:
                # Whatever it is, an engine that cannot be asked is not alive, and the other engines are probed on.
                _log.debug("probe failed", engine=endpoint.authority, error=repr(error))
                self._found(endpoint, False)
                return
        self._found(endpoint, reply.status < 500)
