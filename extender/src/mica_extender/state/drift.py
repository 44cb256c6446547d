"""Whether the ledger still counts what the API holds: a comparison with a fresh list, every few minutes, by the leader.

The ledger lives on watches for weeks; a lost event would show as GPUs that are never full or never empty. The list is paged and
its pages are read slowly, so that decisions do not wait. Pods come and go meanwhile: a card has drifted when two comparisons in a
row find the same difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from mica_api import names
from mica_extender.metrics import Metrics
from mica_extender.state.leadership import Leadership
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import decode_node, decode_pod
from mica_runtime.kube import KubeError
from mica_runtime.logging import get_logger
from mica_runtime.reflector import Change

_log = get_logger(__name__)
EVERY_S: Final = 300.0
AGAIN_S: Final = 10.0
"""After a comparison that found differences."""
_PAGE: Final = 100
_PAUSE_S: Final = 0.02
_PAUSE_EVERY: Final = 50
_NOTHING: Final = (0, 0, 0)
_NAMED_IN_LOG: Final = 5
_PODS: Final = "/api/v1/pods"
_SLICES: Final = {"labelSelector": f"{names.LABEL_SLICE}={names.LABEL_SLICE_VALUE}"}
_NODES: Final = f"/apis/{names.API_VERSION}/vgpunodes"

Amounts = tuple[int, int, int]
"""MiB, cores in percent, slices."""
Difference = tuple[str, str, Amounts, Amounts]
"""Node, GPU, what the API says, what the ledger says."""
T = TypeVar("T")


class Lister(Protocol):
    """Lists, page by page."""

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        """Body of a GET. Raises KubeError."""
        ...


class _ListMeta(msgspec.Struct):
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] = []


_decode: Final = msgspec.json.Decoder(_List).decode


async def differences(fresh: Ledger, ledger: Ledger) -> frozenset[Difference]:
    """Cards of which two ledgers count different amounts, or which only the fresh one has. Lets others run between nodes."""
    found: set[Difference] = set()
    for count, name in enumerate([record.name for record in fresh.records()]):
        if count % _PAUSE_EVERY == 0:
            await asyncio.sleep(0)
        counted = _amounts(ledger, name)
        for uuid, expected in _amounts(fresh, name).items():
            if counted.get(uuid) != expected:
                found.add((name, uuid, expected, counted.get(uuid, _NOTHING)))
    return frozenset(found)


def _amounts(ledger: Ledger, node: str) -> dict[str, Amounts]:
    state = ledger.node(node)
    return {card.uuid: (card.used_mib, card.used_cores, card.slices) for card in state.cards} if state else {}


class DriftWatch:
    """Compares while this replica leads."""

    def __init__(
        self,
        *,
        api: Lister,
        ledger: Ledger,
        leadership: Leadership,
        metrics: Metrics,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._leadership = leadership
        self._metrics = metrics
        self._wall = wall
        self._sleep = sleep
        self._suspects: frozenset[Difference] = frozenset()

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            await self._sleep(AGAIN_S if self._suspects else EVERY_S)
            if self._leadership.leading():
                await self.step()
            else:
                self._suspects = frozenset()

    async def step(self) -> None:
        """One comparison; its differences count when the one before found them too."""
        fresh = Ledger()
        try:
            await self._fill(fresh)
        except (KubeError, msgspec.DecodeError) as error:
            _log.warning("ledger not compared with the API", error=str(error))
            return
        found = await differences(fresh, self._ledger)
        drifted = found & self._suspects
        if drifted:
            named = sorted(drifted)[:_NAMED_IN_LOG]
            _log.error("the ledger has drifted from the API", cards=len(drifted), examples=named)
        self._suspects = found
        self._metrics.drift.set(len(drifted))
        self._metrics.compared.set(self._wall())

    async def _fill(self, fresh: Ledger) -> None:
        """A ledger as a restart would make it. Only bound pods can count."""
        async for node in self._list(_NODES, {}, decode_node):
            fresh.apply_node(Change(node.name, None, node))
        async for pod in self._list(_PODS, _SLICES, decode_pod):
            if pod.node:
                fresh.apply_pod(Change(pod.key, None, pod))

    async def _list(self, path: str, params: Mapping[str, str], decode: Callable[[bytes], T]) -> AsyncIterator[T]:
        token = ""
        while True:
            page = _decode(await self._api.request("GET", path, params={**params, "limit": str(_PAGE), "continue": token}))
            for item in page.items:
                yield decode(bytes(item))
            token = page.metadata.continue_
            if not token:
                return
            await self._sleep(_PAUSE_S)
