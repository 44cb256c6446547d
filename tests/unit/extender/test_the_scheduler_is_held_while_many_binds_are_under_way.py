"""kube-scheduler starts as many binds as it likes; filter is where it can be slowed down to what the API server stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from mica_extender.metrics import Metrics
from mica_extender.scheduling.app import SchedulerApp
from mica_extender.scheduling.binder import AT_ONCE, ROOM_WITHIN_S, Binder
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord

from .conftest import World, node_body, pod_body
from .harness.loop import VirtualLoop


class SlowApi:
    """Stores nothing until it is let."""

    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(0)

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        await self.gate.acquire()

    async def read(self, pod: PodRecord) -> PodRecord:
        raise AssertionError("no outcome is unknown here")


class Busy:
    """An extender with this many binds under way."""

    def __init__(self, binds: int) -> None:
        world = World()
        world.see_node(node_body("n1", gpus=24))
        self.api = SlowApi()
        self.registry = CollectorRegistry()
        self._binder = Binder(ledger=world.ledger, pods=world.pods, api=self.api, leadership=AlwaysLeading())
        self._app = SchedulerApp(
            ledger=world.ledger,
            binder=self._binder,
            leadership=AlwaysLeading(),
            synced=lambda: True,
            metrics=Metrics(self.registry),
        )
        for index in range(binds):
            world.see_pod(pod_body(f"p{index}"))
        self.binds = [
            asyncio.create_task(self._binder.bind(BindQuestion("default", f"p{index}", f"uid-p{index}", "n1")))
            for index in range(binds)
        ]

    async def filter(self) -> None:
        body = json.dumps({"Pod": pod_body("next"), "NodeNames": ["n1"]}).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_: Any) -> None:
            return

        await self._app({"type": "http", "path": "/filter", "method": "POST"}, receive, send)

    async def end(self) -> None:
        for _ in self.binds:
            self.api.gate.release()
        assert await asyncio.gather(*self.binds) == [""] * len(self.binds)


def seconds_of_filter(binds: int, *, stored_after: float | None = None) -> tuple[float, float | None]:
    """How long filter takes beside so many binds, one of which is stored at this moment; and how often filter was held."""

    async def story() -> tuple[float, float | None]:
        busy = Busy(binds)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        if stored_after is not None:
            loop.call_later(stored_after, busy.api.gate.release)
        began = loop.time()
        await busy.filter()
        took = loop.time() - began
        await busy.end()
        return took, busy.registry.get_sample_value("mica_extender_filters_held_total")

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())


def test_a_few_binds_hold_nobody() -> None:
    assert seconds_of_filter(AT_ONCE - 1) == (0.0, 0.0)


def test_filter_waits_until_one_of_many_binds_is_stored() -> None:
    took, held = seconds_of_filter(AT_ONCE, stored_after=0.1)
    assert 0.1 <= took < 0.11
    assert held == 1


def test_binds_without_an_outcome_do_not_hold_the_scheduler_for_ever() -> None:
    took, held = seconds_of_filter(2 * AT_ONCE)
    assert ROOM_WITHIN_S <= took < ROOM_WITHIN_S + 0.01
    assert held == 1
