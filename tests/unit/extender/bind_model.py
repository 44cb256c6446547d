"""A deterministic world for the production bind code: an API server with exact Binding semantics, faults and a lagging watch.

Everything that is random comes from one seed and time is virtual, so that a failing seed fails again. The server here is a dict
and a revision counter; what it must get right is which Binding is refused and what is visible when.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mica_api.request import ContainerRequest
from mica_extender.placement import Placement, choose
from mica_extender.ports import BindingLost, BindingRefused, PodGone
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord, decode_pod

from .conftest import World, node_body, pod_body

MEMORY = 10_000
FAULTS = ("none", "lost before", "lost after", "lands later", "refused for now", "error after")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it. For code without sockets."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits and no timer is set"
        self._loop.now += max(timeout, 0)
        return super().select(0)


@dataclass
class Server:
    """Pods as stored, and the events that a watch would show."""

    random: random.Random
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any] | None]] = field(default_factory=list)
    revision: int = 0
    faults: bool = True
    hits: dict[str, int] = field(default_factory=dict)
    late: set[asyncio.Task[None]] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over_commitments: list[str] = field(default_factory=list)

    def put(self, body: dict[str, Any]) -> None:
        """Store a version of a pod."""
        self.revision += 1
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.revision)}}
        key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        self.pods[key] = body
        self._emit(key, body)

    def remove(self, key: str) -> None:
        """Delete a pod for good."""
        if self.pods.pop(key, None) is not None:
            self._emit(key, None)

    def _emit(self, key: str, body: dict[str, Any] | None) -> None:
        self.events.append((key, body))
        self.changed.set()

    def touch(self, key: str) -> None:
        """Somebody patches the pod's status."""
        if key in self.pods:
            self.put(self.pods[key])

    def record(self, key: str) -> PodRecord:
        return decode_pod(json.dumps(self.pods[key]).encode())

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        """POST pods/binding, perhaps with a fault."""
        await self._travel()
        fault = self.random.choice(FAULTS) if self.faults and self.random.random() < 0.5 else "none"
        self.hits[fault] = self.hits.get(fault, 0) + 1
        if fault == "refused for now":
            raise BindingRefused("429 too many requests", conflict=False)
        if fault == "lost before":
            raise BindingLost("connection reset")
        if fault == "lands later":
            self._later(pod, node, annotations)
            raise BindingLost("timed out")
        self._store(pod, node, annotations)
        await self._travel()
        if fault in ("lost after", "error after"):
            raise BindingLost("connection reset after the write")

    async def read(self, pod: PodRecord) -> PodRecord:
        """GET of the pod, perhaps unanswered."""
        await self._travel()
        if self.faults and self.random.random() < 0.2:
            raise BindingLost("connection refused")
        if pod.key not in self.pods:
            raise PodGone(pod.key)
        found = self.record(pod.key)
        await self._travel()
        if found.uid != pod.uid:
            raise PodGone(pod.key)
        return found

    async def _travel(self) -> None:
        await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.01, 0.3, 1.5)))

    def _later(self, pod: PodRecord, node: str, annotations: Mapping[str, str]) -> None:
        async def land() -> None:
            await asyncio.sleep(self.random.uniform(0, 50))
            try:
                self._store(pod, node, annotations)
            except BindingRefused:
                return

        task = asyncio.create_task(land())
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    def _store(self, pod: PodRecord, node: str, annotations: Mapping[str, str]) -> None:
        """Exactly what the API server does with a Binding."""
        stored = self.pods.get(pod.key)
        if stored is None:
            raise BindingRefused("404", conflict=False)
        meta = stored["metadata"]
        if meta["uid"] != pod.uid or meta["resourceVersion"] != pod.revision:
            raise BindingRefused("409 precondition", conflict=True)
        if stored["spec"].get("nodeName") or meta.get("deletionTimestamp"):
            raise BindingRefused("409 already assigned", conflict=True)
        bound = {**stored, "metadata": {**meta, "annotations": {**meta["annotations"], **annotations}}}
        self.put({**bound, "spec": {**stored["spec"], "nodeName": node}})
        self._check()

    def taken(self) -> dict[str, tuple[int, int, int]]:
        """What is stored on each card."""
        used: dict[str, tuple[int, int, int]] = {}
        for key in self.pods:
            for shares in self.record(key).shares or ():
                for share in shares:
                    mib, cores, count = used.get(share.uuid, (0, 0, 0))
                    used[share.uuid] = (mib + share.memory_mib, cores + share.cores, count + 1)
        return used

    def _check(self) -> None:
        for uuid, (mib, cores, count) in self.taken().items():
            if mib > MEMORY or cores > 100 or count > 10:
                self.over_commitments.append(f"{uuid}: {mib} MiB, {cores} %, {count} slices at revision {self.revision}")


class Scenario:
    """A few nodes, more pods than fit, an impatient scheduler, and people who delete and touch pods."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = Server(self.random)
        self.names = [f"n{i}" for i in range(self.random.randint(1, 3))]
        self.made = 0
        self.stop = False
        self.begin()

    def begin(self) -> None:
        """A process starts: empty memory, then what a list shows."""
        self.world = World()
        for name in self.names:
            self.world.see_node(node_body(name, gpus=2, memory_mib=MEMORY))
        self.server.events.clear()
        for body in self.server.pods.values():
            self.world.see_pod(body)
        self.binder = Binder(
            ledger=self.world.ledger,
            pods=self.world.pods,
            api=self.server,
            leadership=AlwaysLeading(),
            clock=lambda: asyncio.get_running_loop().time(),
        )

    def create(self) -> None:
        self.made += 1
        name = f"p{self.random.randint(0, 7)}"
        if f"default/{name}" in self.server.pods:
            return
        request = ContainerRequest(
            "main",
            number=self.random.choice((1, 1, 2)),
            cores=self.random.choice((0, 20, 50, 100)),
            memory_mib=self.random.choice((1000, 4000, 6000)),
        )
        self.server.put(pod_body(name, uid=f"{name}-{self.made}", containers=[request]))

    async def watch(self) -> None:
        """Shows events in order, late."""
        while True:
            while self.server.events:
                key, body = self.server.events.pop(0)
                if body is not None:
                    self.world.see_pod(body)
                elif key in self.world.pods:
                    self.world.lose_pod(key)
                await asyncio.sleep(self.random.choice((0, 0.001, 0.05, 1.0)))
            self.server.changed.clear()
            await self.server.changed.wait()

    async def schedule(self) -> None:
        """kube-scheduler: filter, pick any node that fits, bind; on failure sometimes write the pod's status; try again."""
        while not self.stop:
            waiting = [pod for pod in self.world.pods.values() if not pod.node]
            if waiting:
                await self._attempt(self.random.choice(waiting))
            await asyncio.sleep(self.random.choice((0.01, 0.1, 0.5)))

    async def _attempt(self, pod: PodRecord) -> None:
        assert pod.shape is not None
        states = [state for name in self.names if (state := self.world.ledger.node(name))]
        fitting = [state.name for state in states if isinstance(choose(pod.shape, state), Placement)]
        if not fitting:
            return
        question = BindQuestion(pod.namespace, pod.name, pod.uid, self.random.choice(fitting))
        error = await asyncio.wait_for(self.binder.bind(question), 4)
        if error and self.random.random() < 0.6:
            self.server.touch(pod.key)

    async def disturb(self) -> None:
        """People."""
        while not self.stop:
            await asyncio.sleep(self.random.uniform(0, 0.5))
            keys = list(self.server.pods)
            what = self.random.random()
            if what < 0.55 or not keys:
                self.create()
            elif what < 0.75:
                self.server.remove(self.random.choice(keys))
            else:
                self.server.touch(self.random.choice(keys))

    async def run(self, *, restarts: bool) -> None:
        """Trouble for a while, then peace until everything has settled."""
        actors = [asyncio.create_task(self._actor(restarts))]
        await asyncio.sleep(15)
        self.stop = True
        self.server.faults = False
        await asyncio.gather(*actors)

    async def _actor(self, restarts: bool) -> None:
        tasks = [asyncio.create_task(c) for c in (self.watch(), self.disturb(), *(self.schedule() for _ in range(3)))]
        while restarts and not self.stop:
            await asyncio.sleep(self.random.uniform(1, 8))
            await self._crash(tasks)
            tasks = [asyncio.create_task(c) for c in (self.watch(), self.disturb(), *(self.schedule() for _ in range(3)))]
        await asyncio.gather(*tasks[1:])
        self.server.faults = False
        await asyncio.sleep(500)
        assert not self.server.events
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)

    async def _crash(self, tasks: list[asyncio.Task[None]]) -> None:
        """The process dies between two statements. Requests on their way arrive before the next one lists, or never."""
        doomed = [*tasks, *(task for task in asyncio.all_tasks() if "Binder." in repr(task.get_coro()))]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        for late in list(self.server.late):
            late.cancel()
        await asyncio.sleep(0)
        self.begin()
