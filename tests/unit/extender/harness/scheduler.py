"""A model of kube-scheduler: its own watch and cache, one pod at a time through the filter, binds on the side, retries.

Follows the real one where it matters to an extender: assumed pods, a time limit on every call, forgetting after a failed bind,
parking what fits nowhere until something changes, dropping a pod that turns out to be bound, and leader election.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from mica_api import names

from . import bodies
from .clocks import WallClock
from .extender import Extender, Judge
from .faults import Strikes
from .loop import Process
from .store import Body, Store
from .wires import Outage

HTTP_TIMEOUT_S = 5.0
LEASE_S, RENEW_DEADLINE_S, RETRY_S = 6, 4.0, 2.0
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 10.0)
FLUSH_S = 60.0
LEASE_KEY = f"mica-system/{names.SCHEDULER_NAME}"


class Scheduler:
    """One process; ``extender`` gives the process that answers at the moment, if one does."""

    def __init__(
        self, pod_name: str, identity: str, store: Store, strikes: Strikes, outage: Outage, judge: Judge, wall: WallClock
    ) -> None:
        self._wall = wall
        self.process = Process(f"kube-scheduler of {pod_name}")
        self.extender: Extender | None = None
        self.leading = False
        self.patches_lost = 0.3
        self._identity = f"{pod_name}_{identity}"
        self._store = store
        self._strikes = strikes
        self._random: random.Random = strikes.random
        self._outage = outage
        self._judge = judge
        self._pods: dict[str, Body] = {}
        self._assumed: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._woken: asyncio.Future[None] | None = None
        for part in (self._elect(), self._watch("pods"), self._watch("deviceclasses"), self._schedule()):
            self.process.spawn(part)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _elect(self) -> None:
        """client-go's leader election, as far as its clocks go."""
        seen, seen_at, renewed_at = "", self._now(), self._now()
        while True:
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.2)))
            if not self._outage.on:
                stored = self._store.kinds["leases"].bodies.get(LEASE_KEY)
                spec = stored["spec"] if stored else {"holderIdentity": "", "leaseTransitions": 0, "renewTime": "0"}
                if (version := str(spec)) != seen:
                    seen, seen_at = version, self._now()
                mine = spec["holderIdentity"] == self._identity
                if mine or not spec["holderIdentity"] or self._now() - seen_at >= LEASE_S:
                    self._hold(spec, mine=mine)
                    renewed_at = self._now()
                elif self.leading:
                    return self.process.kill()
            if self.leading and self._now() - renewed_at >= RENEW_DEADLINE_S:
                return self.process.kill()
            await asyncio.sleep(RETRY_S)

    def _hold(self, spec: Body, *, mine: bool) -> None:
        transitions = spec["leaseTransitions"] + (0 if mine else 1)
        lease = bodies.lease(self._identity, transitions=transitions, renewed=self._wall(), duration_s=LEASE_S)
        self._store.put("leases", lease)
        if not self.leading:
            self.leading = True
            self._wake()

    def release(self) -> None:
        """SIGTERM: the leader gives the Lease away before it ends."""
        spec = self._store.kinds["leases"].bodies[LEASE_KEY]["spec"]
        if self.leading and spec["holderIdentity"] == self._identity:
            lease = bodies.lease("", transitions=spec["leaseTransitions"], renewed=self._wall(), duration_s=1)
            self._store.put("leases", lease)
        self.process.kill()

    async def _watch(self, name: str) -> None:
        """The scheduler's own informer, with a lag of its own."""
        kind = self._store.kinds[name]
        for body in list(kind.bodies.values()):
            self._see("ADDED", body)
        index = len(kind.lines)
        while True:
            while index < len(kind.lines):
                slow = self._strikes.drawn(0.05)
                lag = self._random.uniform(0.5, 3.0) if slow else self._random.choice((0.0, 0.001, 0.02))
                if lag:
                    await asyncio.sleep(lag)
                event = json.loads(kind.lines[index])
                index += 1
                self._see(event["type"], event["object"])
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            kind.waiting.append(change)
            await change

    def _see(self, event: str, body: Body) -> None:
        meta = body["metadata"]
        uid = meta.get("uid", "")
        if uid and event != "DELETED" and not body["spec"].get("nodeName"):
            fresh = uid not in self._pods
            self._pods[uid] = body
            if fresh:
                self._due[uid] = self._now()
        else:
            self._pods.pop(uid, None)
            self._due.pop(uid, None)
            self._assumed.pop(uid, None)
            for parked in self._pods.keys() - self._assumed.keys() - self._due.keys():
                self._due[parked] = self._now()
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _schedule(self) -> None:
        """The scheduling goroutine."""
        loop = asyncio.get_running_loop()
        while True:
            ready = sorted(uid for uid, due in self._due.items() if due <= self._now() and uid not in self._assumed)
            if self.leading and ready:
                await self._attempt(self._pods[self._random.choice(ready)])
                continue
            self._woken = loop.create_future()
            later = [due for uid, due in self._due.items() if due > self._now()]
            timer = loop.call_later(min(later) - self._now() + 0.001, self._wake) if later and self.leading else None
            await self._woken
            if timer is not None:
                timer.cancel()

    async def _attempt(self, pod: Body) -> None:
        uid = pod["metadata"]["uid"]
        arguments = {"Pod": pod, "Nodes": None, "NodeNames": sorted(self._store.kinds["vgpunodes"].bodies)}
        answer = await self._ask("filter", arguments)
        if uid not in self._pods:
            return
        if answer["Error"]:
            await self._retry(pod, scheduled_again_because="SchedulerError")
        elif not answer["NodeNames"]:
            self._due.pop(uid, None)
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush, uid)
            await self._condition(pod, "Unschedulable")
        else:
            self._assumed[uid] = node = self._random.choice(answer["NodeNames"])
            self._due.pop(uid, None)
            self.process.spawn(self._bind(pod, node))

    def _flush(self, uid: str) -> None:
        if uid in self._pods and uid not in self._due and uid not in self._assumed:
            self._due[uid] = self._now()
            self._wake()

    async def _bind(self, pod: Body, node: str) -> None:
        meta = pod["metadata"]
        arguments = {"PodName": meta["name"], "PodNamespace": meta["namespace"], "PodUID": meta["uid"], "Node": node}
        answer = await self._ask("bind", arguments)
        if not answer["Error"]:
            if self.extender is not None:
                self._judge.answered(self.extender, pod, node)
            return
        self._assumed.pop(meta["uid"], None)
        if meta["uid"] in self._pods:
            await self._retry(pod, scheduled_again_because="SchedulerError")
        for parked in self._pods.keys() - self._assumed.keys() - self._due.keys():
            self._due[parked] = self._now()
        self._wake()

    async def _ask(self, verb: str, arguments: dict[str, Any]) -> Any:
        try:
            if self.extender is None:
                raise ConnectionRefusedError(verb)
            return await self.extender.call(verb, arguments, within=HTTP_TIMEOUT_S)
        except (ConnectionError, TimeoutError) as error:
            return {"Error": repr(error), "NodeNames": None}

    async def _retry(self, pod: Body, *, scheduled_again_because: str) -> None:
        uid = pod["metadata"]["uid"]
        tries = self._tries[uid] = self._tries.get(uid, 0) + 1
        self._due[uid] = self._now() + BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]
        await self._condition(pod, scheduled_again_because)

    async def _condition(self, pod: Body, reason: str) -> None:
        """PodScheduled=False: best effort, and the same failure twice writes nothing."""
        if self._random.random() < self.patches_lost:
            return
        meta = pod["metadata"]
        key = f"{meta['namespace']}/{meta['name']}"
        await asyncio.sleep(self._random.choice((0.0, 0.001, 0.3)))
        stored = self._store.pods.get(key)
        if stored is None or stored["metadata"]["uid"] != meta["uid"] or self._outage.on:
            return
        if stored["status"].get("scheduled") != reason:
            self._store.put("pods", {**stored, "status": {**stored["status"], "scheduled": reason}})
