"""A model of a node's agent and kubelet: the agent's own verification decides what starts, and what started is held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from mica_api.allocation import GPUShare
from mica_api.sharing import Sharing
from mica_device_plugin.values import GPUDevice, Pin, PodView, PoolChoice
from mica_device_plugin.verify import NodeFacts, Refuse, verify

from .faults import Strikes
from .store import Body, Store

KUBELET_RETRIES_S = 12.0


class Agent:
    """Fence of one node. ``pins`` is what it has let start and not yet seen dead."""

    def __init__(self, node: Body, store: Store, strikes: Strikes) -> None:
        self.name: str = node["metadata"]["name"]
        spec = node["spec"]
        self.gpus = tuple(GPUDevice(g["uuid"], g["index"], g["model"], g["memoryMiB"]) for g in spec["gpus"])
        self.max_slices: int = spec["maxSlicesPerGPU"]
        self._facts = NodeFacts(self.name, self.gpus, PoolChoice("default", Sharing(self.max_slices)))
        self._store = store
        self._random = strikes.random
        self._strikes = strikes
        self.pins: dict[str, Pin] = {}
        self.refusals: dict[str, Body] = {}
        self.over_accepted: list[str] = []
        self._pods: dict[str, Body] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the pods of this node."""
        kind = self._store.kinds["pods"]
        index = 0
        while True:
            while index < len(kind.lines):
                line = kind.lines[index]
                index += 1
                if b'"nodeName"' not in line:
                    continue
                slow = self._strikes.drawn(0.1)
                await asyncio.sleep(self._random.uniform(0.5, 3.0) if slow else self._random.choice((0.0, 0.01)))
                event = json.loads(line)
                self._see(event["type"], event["object"])
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            kind.waiting.append(change)
            await change

    def _see(self, event: str, pod: Body) -> None:
        uid = pod["metadata"]["uid"]
        if pod["spec"].get("nodeName") != self.name:
            return
        if event == "DELETED" or pod["metadata"].get("deletionTimestamp"):
            if self._pods.pop(uid, None) is not None or uid in self.pins:
                self._keep(self._end(pod))
        elif uid not in self._pods:
            self._pods[uid] = pod
            self._keep(self._start(uid))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, uid: str) -> None:
        """PreStart, again and again until it works or the pod is gone."""
        await asyncio.sleep(self._random.uniform(0.1, 1.0))
        while uid in self._pods:
            verdict = verify(pod=_view(self._pods[uid]), node=self._facts, held=self.pins.values())
            meta = self._pods[uid]["metadata"]
            if not isinstance(verdict, Refuse):
                self.pins[uid] = Pin(uid, meta["namespace"], meta["name"], verdict.containers)
                self.refusals.pop(uid, None)
                self._check()
                self._publish()
                return
            if uid not in self.refusals:
                self.refusals[uid] = {
                    "podUID": uid,
                    "namespace": meta["namespace"],
                    "pod": meta["name"],
                    "container": "main",
                    "reason": str(verdict.reason),
                    "message": verdict.message,
                }
                self._publish()
            await asyncio.sleep(KUBELET_RETRIES_S)

    async def _end(self, pod: Body) -> None:
        """The containers end some time after the API server was told to delete the pod; a pod that ends by itself goes then."""
        meta = pod["metadata"]
        uid = meta["uid"]
        await asyncio.sleep(self._random.choice((0.05, 0.5, 2.0, 6.0)))
        self._pods.pop(uid, None)
        held = self.pins.pop(uid, None)
        if held is not None or self.refusals.pop(uid, None) is not None:
            self._publish()
        key = f"{meta['namespace']}/{meta['name']}"
        stored = self._store.pods.get(key)
        if stored is not None and stored["metadata"]["uid"] == uid:
            self._store.remove("pods", key)

    def _publish(self) -> None:
        node = self._store.kinds["vgpunodes"].bodies[self.name]
        slices = [
            {
                "podUID": pin.pod_uid,
                "namespace": pin.namespace,
                "pod": pin.pod,
                "container": container.name,
                "gpus": [{"uuid": s.uuid, "memoryMiB": s.memory_mib, "cores": s.cores} for s in container.shares],
            }
            for pin in self.pins.values()
            for container in pin.containers
            if container.shares
        ]
        self._store.put("vgpunodes", {**node, "status": {"slices": slices, "refusals": list(self.refusals.values())}})

    def _check(self) -> None:
        """What was let start never exceeds a card: counted here once more, without the agent's own arithmetic."""
        shares = [share for pin in self.pins.values() for c in pin.containers for share in c.shares]
        for gpu in self.gpus:
            problem = over(gpu.memory_mib, self.max_slices, [s for s in shares if s.uuid == gpu.uuid])
            if problem:
                self.over_accepted.append(f"{gpu.uuid}: {problem}")


def over(memory_mib: int, max_slices: int, shares: list[GPUShare]) -> str:
    """How these slices exceed a card; empty when they fit."""
    memory, cores = sum(s.memory_mib for s in shares), sum(s.cores for s in shares)
    if memory > memory_mib or cores > 100 or len(shares) > max_slices:
        return f"{memory}/{memory_mib} MiB, {cores} %, {len(shares)}/{max_slices} slices"
    if len(shares) > 1 and any(s.cores == 100 for s in shares):
        return f"{len(shares)} slices on a card that one has alone"
    return ""


def _view(pod: Body) -> PodView:
    meta: dict[str, Any] = pod["metadata"]
    containers = tuple((c["name"], c["resources"]["limits"]) for c in pod["spec"]["containers"])
    return PodView(meta["uid"], meta["namespace"], meta["name"], pod["spec"]["nodeName"], meta["annotations"], containers)
