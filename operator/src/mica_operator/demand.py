"""The demand as the routers tell it: `GET /demand` at the admin port of every router pod, summed.

Routers that are ready have to tell, or the sum is a lower bound. One that leaves may still be working on streams, which belong to
the sum as long as it tells of them; when it no longer does, it has nothing left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import aiohttp
import msgspec

from mica_operator.autoscaler import DemandReport, Key
from mica_runtime.kube import KubeClient, KubeError
from mica_runtime.logging import get_logger

_TIMEOUT_S: Final = 2.0
_PODS_FOR_S: Final = 10.0
_log = get_logger(__name__)


class Entry(msgspec.Struct):
    """One model at one router; counts, which are written as numbers with a point."""

    in_flight: float
    queued: float


class Answer(msgspec.Struct):
    """Answer of ``GET /demand``, by the name that a service is listed under; other fields are the router's own business."""

    models: dict[str, Entry]


_decode: Final = msgspec.json.Decoder(Answer).decode


class Routers(NamedTuple):
    """Admin addresses, as host:port: routers that get requests, and routers that end what they have."""

    ready: Sequence[str]
    leaving: Sequence[str] = ()


class RouterPods(Protocol):
    """The routers that there are."""

    async def addresses(self, *, fresh: bool = False) -> Routers:
        """`fresh`: what was found before may be wrong. Raises KubeError."""


class Fetch(Protocol):
    """One HTTP GET."""

    async def __call__(self, url: str) -> bytes:
        """Body of an answer with status 200. Raises OSError, TimeoutError or aiohttp.ClientError."""


class RouterDemand:
    """DemandPort over the routers' admin ports."""

    def __init__(self, pods: RouterPods, fetch: Fetch, *, owner: Callable[[str], str | None]) -> None:
        """``owner``: ``namespace/name`` of the service that a model name means."""
        self._pods = pods
        self._fetch = fetch
        self._owner = owner
        self._doubtful = False

    async def read(self) -> DemandReport | None:
        """See DemandPort."""
        try:
            routers = await self._pods.addresses(fresh=self._doubtful)
        except KubeError as error:
            _log.warning("router pods cannot be listed", error=str(error))
            return None
        answers = await asyncio.gather(*map(self._ask, (*routers.ready, *routers.leaving)))
        heard = [answer for answer in answers if answer is not None]
        silent = None in answers[: len(routers.ready)]
        # A router that has ended is ready no longer: then the sum is whole again at the next look.
        self._doubtful = None in answers
        if not heard:
            return None
        return DemandReport(self._summed(heard), complete=not silent and bool(routers.ready))

    async def _ask(self, address: str) -> Answer | None:
        try:
            return _decode(await self._fetch(f"http://{address}/demand"))
        except (OSError, TimeoutError, aiohttp.ClientError, msgspec.DecodeError) as error:
            _log.info("a router does not tell its demand", router=address, error=repr(error))
            return None

    def _summed(self, answers: Sequence[Answer]) -> dict[Key, tuple[int, int]]:
        total: dict[Key, tuple[int, int]] = {}
        for answer in answers:
            for model, entry in answer.models.items():
                namespace, _, name = (self._owner(model) or "").partition("/")
                in_flight, queued = total.get((namespace, name), (0, 0))
                total[namespace, name] = (in_flight + int(entry.in_flight), queued + int(entry.queued))
        return total


class KubeRouterPods:
    """RouterPods from the EndpointSlices of the router's Service, read every ten seconds."""

    def __init__(self, client: KubeClient, *, namespace: str, service: str, port: int) -> None:
        self._client = client
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._selector = f"kubernetes.io/service-name={service}"
        self._port = port
        self._found = Routers(())
        self._read_at = -_PODS_FOR_S

    async def addresses(self, *, fresh: bool = False) -> Routers:
        """See RouterPods."""
        now = asyncio.get_running_loop().time()
        if fresh or now - self._read_at >= _PODS_FOR_S or not self._found.ready:
            slices = await self._client.get(self._path, params={"labelSelector": self._selector})
            ready, leaving = hosts_of(slices)
            self._found = Routers([*map(self._address, ready)], [*map(self._address, leaving)])
            self._read_at = now
        return self._found

    def _address(self, host: str) -> str:
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"


def hosts_of(slices: dict[str, list[dict[str, list[dict[str, object]]]]]) -> tuple[list[str], list[str]]:
    """Hosts of an EndpointSliceList that are ready, and those that are not but are ending. A pod is in one of them at most."""
    ready: set[str] = set()
    leaving: set[str] = set()
    for slice_ in slices.get("items", []):
        for endpoint in slice_.get("endpoints") or []:
            conditions, addresses = endpoint.get("conditions"), endpoint.get("addresses")
            if not isinstance(addresses, list) or not addresses:
                continue
            if not isinstance(conditions, dict) or conditions.get("ready") is not False:
                ready.add(str(addresses[0]))
            elif conditions.get("terminating") is True:
                leaving.add(str(addresses[0]))
    return sorted(ready), sorted(leaving - ready)


class HttpFetch:
    """Fetch with a session of its own. An async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpFetch:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def __call__(self, url: str) -> bytes:
        """See Fetch."""
        assert self._session is not None, "enter first"
        async with self._session.get(url) as response:
            response.raise_for_status()
            return await response.read()
