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
from mica_extender.placement.charge import Amounts, most
from mica_extender.state.leadership import Leadership
from mica_extender.state.ledger import Ledger, Usage, usage_on
from mica_extender.state.records import NodeRecord, PodRecord, decode_node, decode_pod
from mica_runtime.kube import KubeError
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
EVERY_S: Final = 300.0
AGAIN_S: Final = 10.0
"""After a comparison that found differences."""
_PAGE: Final = 100
_PAUSE_S: Final = 0.02
_PAUSE_EVERY: Final = 50
NOTHING: Final = Amounts()
_NAMED_IN_LOG: Final = 5
_PODS: Final = "/api/v1/pods"
_SLICES: Final = {"labelSelector": f"{names.LABEL_SLICE}={names.LABEL_SLICE_VALUE}"}
_NODES: Final = f"/apis/{names.API_VERSION}/vgpunodes"

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


class Expected:
    """What every card should have taken of it, counted from a list of VGPUNodes and, after it, one of pods, an object at a time.

    As large as a few numbers for each card: no pod is kept, and of a node that is as the ledger knows it only the record there.
    At 5,000 nodes with 40,000 pods that is 6 MiB; a second ledger takes 40 to 60.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._known = {record.name: record for record in ledger.records()}
        self._nodes: dict[str, NodeRecord] = {}
        self._taken: dict[str, dict[str, Amounts]] = {}

    def see_node(self, node: NodeRecord) -> None:
        """Count what the node's agent says is held."""
        known = self._known.get(node.name)
        record = known if known == node else node
        self._nodes[node.name] = record
        taken = self._taken[node.name] = {card.uuid: NOTHING for card in record.cards}
        for held in record.held.values():
            _add(taken, usage_on(record, (held,)), {})

    def see_pod(self, pod: PodRecord) -> None:
        """Count what a bound pod takes beyond what is held for it."""
        record = self._nodes.get(pod.node)
        if record is None or pod.terminal or not pod.shares:
            return
        held = record.held.get(pod.uid)
        counted = usage_on(record, (held,)) if held else {}
        _add(self._taken[record.name], most([usage_on(record, pod.shares), counted]), counted)

    async def differences(self, ledger: Ledger) -> frozenset[Difference]:
        """Cards of which the ledger counts something else, or which it lacks. Lets others run between nodes."""
        found: set[Difference] = set()
        for count, (name, taken) in enumerate(self._taken.items()):
            if count % _PAUSE_EVERY == 0:
                await asyncio.sleep(0)
            state = ledger.node(name)
            counted = {card.uuid: Amounts(card.used_mib, card.used_cores, card.slices) for card in state.cards} if state else {}
            for uuid, expected in taken.items():
                if counted.get(uuid) != expected:
                    found.add((name, uuid, expected, counted.get(uuid, NOTHING)))
        return frozenset(found)


def _add(taken: dict[str, Amounts], more: Usage, less: Usage) -> None:
    """Add the difference of two usages to what is taken of the node's own cards."""
    for uuid in taken.keys() & (more.keys() | less.keys()):
        sums = zip(taken[uuid], more.get(uuid, NOTHING), less.get(uuid, NOTHING), strict=True)
        taken[uuid] = Amounts(*(old + plus - minus for old, plus, minus in sums))


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
                self._forget()

    async def step(self) -> None:
        """One comparison; its differences count when the one before found them too."""
        expected = Expected(self._ledger)
        try:
            await self._fill(expected)
        except (KubeError, msgspec.DecodeError) as error:
            _log.warning("ledger not compared with the API", error=str(error))
            return
        found = await expected.differences(self._ledger)
        if not self._leadership.leading():
            self._forget()
            return
        drifted = found & self._suspects
        if drifted:
            named = sorted(drifted)[:_NAMED_IN_LOG]
            _log.error("the ledger has drifted from the API", cards=len(drifted), examples=named)
        self._suspects = found
        self._metrics.drift.set(len(drifted))
        self._metrics.compared.set(self._wall())

    def _forget(self) -> None:
        """Another replica leads and compares: what this one found says nothing of the present."""
        self._suspects = frozenset()
        self._metrics.drift.set(0)

    async def _fill(self, expected: Expected) -> None:
        async for node in self._list(_NODES, {}, decode_node):
            expected.see_node(node)
        async for pod in self._list(_PODS, _SLICES, decode_pod):
            expected.see_pod(pod)

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
