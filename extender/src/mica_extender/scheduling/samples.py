"""Pods that were refused on every node of kube-scheduler's sample although another node has room.

In a large cluster kube-scheduler stops looking once it has ``percentageOfNodesToScore`` of the nodes that suit a pod by sums, and
asks about these only; the next try begins where this one stopped. When none of them has a card for the pod, the pod is parked
until something changes, although nothing needs to change. So it is announced, a few times in quick succession: enough for the
sample to go around the cluster twice, and then ever more rarely: a node with room may be one that other terms of the pod exclude.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from prometheus_client import Counter

SMALLEST_SAMPLE: Final = 100
"""kube-scheduler looks at this many suitable nodes at least: one that asks about fewer has seen all (minFeasibleNodesToFind)."""
SPACING_S: Final = 0.2
ROUNDS: Final = 2
MAX_SPACING_S: Final = 60.0
_PODS_KEPT: Final = 4096


class Samples:
    """Asks for another try. ``again`` makes kube-scheduler try its waiting pods once more; each pod that is missed for the first
    time starts the quick succession anew, so that no pod pays for another one's hopeless search.
    """

    def __init__(self, again: Callable[[], None], *, missed: Counter) -> None:
        self._again = again
        self._counter = missed
        self._pods: OrderedDict[str, None] = OrderedDict()
        self._missed = asyncio.Event()
        self._fresh = asyncio.Event()
        self._quick = 0

    def missed(self, pod_uid: str, *, samples: int) -> None:
        """Every node of the sample refused the pod; another one fits. ``samples``: how many make up the cluster."""
        self._counter.inc()
        if pod_uid not in self._pods:
            self._pods[pod_uid] = None
            self._quick = max(self._quick, ROUNDS * samples)
            self._fresh.set()
            if len(self._pods) > _PODS_KEPT:
                self._pods.popitem(last=False)
        self._missed.set()

    def judged(self, pod_uid: str) -> None:
        """The answer about this pod did not depend on the sample."""
        self._pods.pop(pod_uid, None)

    async def run(self) -> None:
        """Ask until cancelled."""
        spacing = SPACING_S
        while True:
            await self._missed.wait()
            if self._fresh.is_set():
                self._fresh.clear()
                spacing = SPACING_S
            self._missed.clear()
            self._again()
            if self._quick > 0:
                self._quick -= 1
                await asyncio.sleep(SPACING_S)
                continue
            spacing = min(2 * spacing, MAX_SPACING_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), spacing)
