"""Pods that a node agent refused are evicted, so that their owner makes new ones that are decided afresh.

Only for what another decision mends, and only when it has lasted: the kubelet tries a refused container again about every twelve
seconds, so that a passing reason is gone by itself. Only pods with a controller: nobody would make another of a bare pod,
and its refusal is what its user has to read. A refused pod holds kubelet's slots while it waits, so one that stays is in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mica_extender.metrics import Metrics
from mica_extender.ports import EvictionApi
from mica_extender.state.leadership import Leadership
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import NodeRecord, PodRecord, RefusedPod
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
EVERY_S: Final = 1.0
PERSISTS_S: Final = 20.0
"""How long, on our clock, a refusal must have been there without a gap: more than one of the kubelet's tries."""
PAUSE_S: Final = 2.0
BACKOFF_MAX_S: Final = 60.0
MENDABLE: Final = frozenset(
    {
        "OutOfMemory",
        "OutOfCores",
        "OutOfSlices",
        "NotExclusive",
        "UnknownGPU",
        "NoPool",
        "NoDecision",
        "MalformedDecision",
        "WrongNode",
        "WrongPod",
        "NotAsRequested",
        "LibraryMissing",
    }
)
"""Reasons of the node agent that end with the pod. Not in it is what passes (slots that are still being freed, a card that
recovers) and what the next pod of the same template would meet again."""


@dataclass(frozen=True, slots=True)
class _Try:
    """When a pod may be evicted next, and how long to wait after that."""

    due: float
    pause: float


def refused_pods(nodes: Iterable[NodeRecord], pods: Mapping[str, PodRecord]) -> list[tuple[RefusedPod, PodRecord]]:
    """Mendable refusals of pods that are still bound to the node that refused them, one per pod."""
    found: dict[str, tuple[RefusedPod, PodRecord]] = {}
    for node in nodes:
        for refused in (one for one in node.refused if one.reason in MENDABLE):
            pod = pods.get(f"{refused.namespace}/{refused.name}")
            if pod is None or pod.uid != refused.uid or pod.node != node.name or pod.deleting or pod.terminal:
                continue
            found[pod.uid] = (refused, pod)
    return list(found.values())


class Evictor:
    """Goes over the refusals once a second while this replica leads."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pods: Mapping[str, PodRecord],
        api: EvictionApi,
        leadership: Leadership,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._pods = pods
        self._api = api
        self._leadership = leadership
        self._metrics = metrics
        self._clock = clock
        self._tries: dict[str, _Try] = {}

    async def run(self) -> None:
        """Evict until cancelled."""
        while True:
            if self._leadership.leading():
                await self.step()
            else:
                self._tries.clear()
            await asyncio.sleep(EVERY_S)

    async def step(self) -> None:
        """Evict what is due now."""
        refused = refused_pods(self._ledger.records(), self._pods)
        current = {pod.uid for _, pod in refused}
        self._tries = {uid: known for uid, known in self._tries.items() if uid in current}
        for refusal, pod in refused:
            await self._consider(refusal, pod)

    async def _consider(self, refusal: RefusedPod, pod: PodRecord) -> None:
        now = self._clock()
        known = self._tries.get(pod.uid)
        if known is None:
            self._tries[pod.uid] = _Try(now + PERSISTS_S, PAUSE_S)
            if not pod.controlled:
                _log.warning("refused pod has no owner and stays", pod=pod.key, node=pod.node, reason=refusal.reason)
            return
        if not pod.controlled or now < known.due:
            return
        self._tries[pod.uid] = _Try(now + known.pause, min(known.pause * 2, BACKOFF_MAX_S))
        done = await self._api.evict(namespace=pod.namespace, name=pod.name, uid=pod.uid)
        self._metrics.evictions.labels("done" if done else "retry").inc()
        _log.info("refused pod evicted" if done else "eviction will be retried", pod=pod.key, reason=refusal.reason)
