"""The production extender of one replica, put together as its own entry point does, on a wire of the model."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol, cast

from prometheus_client import CollectorRegistry

from mica_extender.evictor import Evictor
from mica_extender.kube_api import KubeApi
from mica_extender.metrics import Metrics
from mica_extender.placement.kernels import load_native
from mica_extender.poke import Poker
from mica_extender.scheduling.app import SchedulerApp
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.cards import CardChoice
from mica_extender.state.cluster import Cluster
from mica_extender.state.leadership import LeaseWatch, Takeover
from mica_extender.state.ledger import Ledger
from mica_runtime.kube import KubeClient

from .clocks import WallClock
from .faults import Strikes
from .loop import Process
from .store import Body, Store
from .wires import Client, Outage


class Judge(Protocol):
    """Hears of every decision before it leaves, and of every bind that was called done."""

    def sending(self, extender: Extender, key: str, binding: Body) -> None: ...

    def answered(self, extender: Extender, pod: Body, node: str) -> None: ...


_METRICS = Metrics(CollectorRegistry())
_KERNEL = load_native()


class Extender:
    """A process; killed, it is gone with all it knew."""

    def __init__(self, pod_name: str, store: Store, strikes: Strikes, outage: Outage, judge: Judge, wall: WallClock) -> None:
        self._wall = wall
        self.process = Process(f"extender of {pod_name}")
        self._strikes = strikes
        client = Client(store, self.process, strikes, outage, lambda key, body: judge.sending(self, key, body))
        self.process.context.run(self._start, pod_name, client)

    def _start(self, pod_name: str, client: Client) -> None:
        clock = asyncio.get_running_loop().time
        api = KubeApi(cast(KubeClient, client))
        self.lease = LeaseWatch(pod_name, clock)
        self.leadership = Takeover(self.lease, lambda: self.cluster.refresh())
        poker = Poker(api=api, leadership=self.leadership, metrics=_METRICS)
        self.ledger = Ledger(poker.gain)
        self.cluster = Cluster(cast(KubeClient, client), ledger=self.ledger, lease=self.lease, namespace="mica-system")
        self.binder = Binder(
            ledger=self.ledger,
            pods=self.cluster.pods,
            api=api,
            leadership=self.leadership,
            cards=CardChoice(self.ledger, _KERNEL),
            clock=clock,
            wall=self._wall,
        )
        evictor = Evictor(
            ledger=self.ledger,
            pods=self.cluster.pods,
            api=api,
            leadership=self.leadership,
            metrics=_METRICS,
            clock=clock,
        )
        self.app = SchedulerApp(
            ledger=self.ledger,
            binder=self.binder,
            leadership=self.leadership,
            synced=self.cluster.synced,
            metrics=_METRICS,
        )
        for part in (*self.cluster.parts(), self.leadership.run(), poker.run(), evictor.run()):
            self.process.spawn(part)

    async def call(self, verb: str, arguments: dict[str, Any], *, within: float) -> Any:
        """The decoded answer of a verb. Raises ConnectionError, TimeoutError."""
        if self.process.dead:
            raise ConnectionRefusedError(verb)
        task = self.process.spawn(self._answer(verb, json.dumps(arguments).encode()))
        await asyncio.wait({task, self.process.ended}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if self.process.dead:
            raise ConnectionResetError(verb)
        if not task.done():
            raise TimeoutError(verb)
        return json.loads(task.result())

    async def _answer(self, verb: str, body: bytes) -> bytes:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(self._strikes.random.choice((0.0, 0.0, 0.001, 0.2)))
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "path": f"/{verb}", "method": "POST"}, receive, send)
        assert sent[0]["status"] == 200, sent
        answer: bytes = sent[1]["body"]
        return answer
