"""The ledger is compared with fresh lists: what differs twice in a row is drift, what is on its way is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mica_api.allocation import GPUShare
from mica_extender.metrics import Metrics
from mica_extender.state.drift import AGAIN_S, EVERY_S, DriftWatch
from mica_runtime.kube import Unreachable

from .conftest import PodBody, World, node_body, pod_body


class Api:
    """Lists, two objects a page."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {"/api/v1/pods": [], "/apis/mica.dev/v1alpha1/vgpunodes": []}
        self.asked: list[Mapping[str, str]] = []
        self.reachable = True

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        assert method == "GET"
        assert params is not None
        if not self.reachable:
            raise Unreachable(path)
        self.asked.append(params)
        start = int(params["continue"] or 0)
        items = self.objects[path]
        more = {"continue": str(start + 2)} if start + 2 < len(items) else {}
        return json.dumps({"metadata": more, "items": items[start : start + 2]}).encode()


class Leads:
    value = True

    def leading(self) -> bool:
        return self.value

    def term(self) -> str:
        return "t" if self.value else ""


class Stop(Exception):
    pass


class Stage:
    def __init__(self, world: World) -> None:
        self.world, self.api, self.slept = world, Api(), list[float]()
        self.metrics = Metrics(CollectorRegistry())
        self.api.objects["/apis/mica.dev/v1alpha1/vgpunodes"].append(node_body("n1"))
        self.leads = Leads()
        self.watch = DriftWatch(
            api=self.api,
            ledger=world.ledger,
            leadership=self.leads,
            metrics=self.metrics,
            wall=lambda: 123.0,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds >= AGAIN_S and len([s for s in self.slept if s >= AGAIN_S]) > 2:
            raise Stop

    def bound(self, name: str) -> PodBody:
        """A pod that the API has stored as bound."""
        body = self.world.bound_body(pod_body(name), "n1")
        self.api.objects["/api/v1/pods"].append(body)
        return body

    async def drift(self) -> float | None:
        await self.watch.step()
        return self.metrics.registry.get_sample_value("mica_extender_ledger_drift_cards")


@pytest.fixture
def stage(world: World) -> Stage:
    return Stage(world)


async def test_a_ledger_that_has_seen_everything_has_not_drifted(stage: Stage) -> None:
    for name in ("a", "b", "c", "d", "e"):
        stage.world.see_pod(stage.bound(name))
    assert [await stage.drift(), await stage.drift()] == [0, 0]
    assert stage.metrics.registry.get_sample_value("mica_extender_ledger_compared_timestamp_seconds") == 123
    assert all("labelSelector" in asked for asked in stage.api.asked if asked["continue"])


async def test_a_bound_pod_that_the_ledger_never_saw_is_drift_when_it_is_found_twice(stage: Stage) -> None:
    stage.bound("lost")
    assert [await stage.drift(), await stage.drift()] == [0, 1]


async def test_a_pod_that_the_watch_shows_in_between_was_only_on_its_way(stage: Stage) -> None:
    body = stage.bound("late")
    assert await stage.drift() == 0
    stage.world.see_pod(body)
    assert await stage.drift() == 0


async def test_a_reservation_that_is_never_given_back_is_drift(stage: Stage) -> None:
    stage.world.ledger.reserve(pod_uid="x", node="n1", shares=((GPUShare("GPU-n1-0", 100, 10),),))
    assert [await stage.drift(), await stage.drift()] == [0, 1]


async def test_without_an_answer_nothing_is_said(stage: Stage) -> None:
    stage.bound("lost")
    await stage.drift()
    stage.api.reachable = False
    assert await stage.drift() == 0
    stage.api.reachable = True
    assert await stage.drift() == 1


async def test_it_is_looked_again_soon_after_a_difference_and_seldom_otherwise(stage: Stage) -> None:
    stage.bound("lost")
    with pytest.raises(Stop):
        await stage.watch.run()
    assert [s for s in stage.slept if s >= AGAIN_S] == [EVERY_S, AGAIN_S, AGAIN_S]


async def test_a_replica_that_does_not_lead_leaves_the_api_alone(stage: Stage) -> None:
    stage.leads.value = False
    with pytest.raises(Stop):
        await stage.watch.run()
    assert stage.api.asked == []


async def test_what_a_replica_found_is_forgotten_when_another_one_leads(stage: Stage) -> None:
    stage.bound("lost")
    assert [await stage.drift(), await stage.drift()] == [0, 1]
    stage.leads.value = False
    with pytest.raises(Stop):
        await stage.watch.run()
    assert stage.metrics.registry.get_sample_value("mica_extender_ledger_drift_cards") == 0


async def test_a_lead_that_is_lost_during_a_comparison_ends_it(stage: Stage) -> None:
    stage.bound("lost")
    assert await stage.drift() == 0
    stage.leads.value = False
    assert await stage.drift() == 0


async def test_of_what_is_stored_and_what_is_held_the_larger_counts_card_by_card(stage: Stage) -> None:
    body = stage.bound("a")
    slices = [
        {
            "podUID": "uid-a",
            "gpus": [{"uuid": "GPU-n1-0", "memoryMiB": 1000, "cores": 30}, {"uuid": "GPU-n1-1", "memoryMiB": 7, "cores": 1}],
        },
        {"podUID": "gone", "gpus": [{"uuid": "GPU-n1-1", "memoryMiB": 500, "cores": 5}]},
    ]
    node = node_body("n1", slices=slices)
    stage.api.objects["/apis/mica.dev/v1alpha1/vgpunodes"][:] = [node]
    stage.world.see_node(node)
    assert await stage.drift() == 0
    assert await stage.drift() == 1, "the ledger has not seen the pod; of its second card nothing more is stored than is held"
    stage.world.see_pod(body)
    assert [await stage.drift(), await stage.drift()] == [0, 0]
