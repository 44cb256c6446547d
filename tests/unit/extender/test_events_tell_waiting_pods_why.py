"""One event per waiting pod, counted, in the background: told once, told again only for another reason, never a flood."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry

from mica_api import names
from mica_api.request import ContainerRequest
from mica_extender.events import (
    EVENTS_PER_STEP,
    MAX_MESSAGE,
    PATIENCE_S,
    QUIET_S,
    REFRESH_S,
    Announcer,
    PodEvent,
    Words,
    message_of,
    words_of,
)
from mica_extender.explain.survey import survey
from mica_extender.metrics import Metrics
from mica_extender.placement.kernels import NumpyKernel
from mica_extender.scheduling.verbs import NodeVerbs

from .conftest import World, node_body, pod_body

BIG = (ContainerRequest("main", number=1, memory_mib=90_000),)
MANY = (ContainerRequest("main", number=3, memory_mib=10),)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Written:
    """An API that keeps what it is told, or refuses."""

    def __init__(self) -> None:
        self.events: list[PodEvent] = []
        self.works = True

    async def write(self, event: PodEvent) -> bool:
        if self.works:
            self.events.append(event)
        return self.works


class Leads:
    def __init__(self) -> None:
        self.value = True

    def leading(self) -> bool:
        return self.value

    def term(self) -> str:
        return "t" if self.value else ""


class Stage:
    """An announcer and all that it sees."""

    def __init__(self, world: World) -> None:
        self.world, self.clock, self.written = world, Clock(), Written()
        self.metrics = Metrics(CollectorRegistry())
        self.announcer = Announcer(
            ledger=world.ledger,
            pods=world.pods,
            api=self.written,
            leadership=Leads(),
            metrics=self.metrics,
            fits=NodeVerbs(ledger=world.ledger, kernel=NumpyKernel()).fits_somewhere,
            clock=self.clock,
        )

    async def after(self, seconds: float) -> list[PodEvent]:
        """What a step writes that comes this much later."""
        self.clock.now += seconds
        before = len(self.written.events)
        await self.announcer.step()
        return self.written.events[before:]


@pytest.fixture
def stage(world: World) -> Stage:
    return Stage(world)


async def test_a_waiting_pod_is_told_the_counted_reason_once(stage: Stage) -> None:
    stage.world.see_pod(pod_body("a", containers=BIG))
    assert await stage.after(0) == []
    (event,) = await stage.after(PATIENCE_S)
    assert event.message == (
        "0/1 GPU nodes have room: 1 node 2/2 CardInsufficientMemory. More: kubectl mica explain a -n default"
    )
    assert (event.namespace, event.pod, event.uid, event.count) == ("default", "a", "uid-a", 1)
    assert await stage.after(QUIET_S) == []
    assert await stage.after(QUIET_S) == []


async def test_another_reason_is_told_in_place_of_the_first(stage: Stage) -> None:
    stage.world.see_pod(pod_body("a", containers=MANY))
    await stage.after(0)
    (first,) = await stage.after(PATIENCE_S)
    stage.world.see_node(node_body("n1", gpus=4, memory_mib=5))
    assert await stage.after(QUIET_S - 1) == []
    (second,) = await stage.after(1)
    assert "NodeInsufficientDevice" in first.message
    assert "4/4 CardInsufficientMemory" in second.message
    assert second.name == first.name
    assert (second.count, second.first_s_ago) == (2, QUIET_S)


async def test_an_unchanged_reason_is_written_again_before_it_is_forgotten(stage: Stage) -> None:
    stage.world.see_pod(pod_body("a", containers=BIG))
    await stage.after(0)
    assert len(await stage.after(PATIENCE_S)) == 1
    assert len(await stage.after(REFRESH_S)) == 1


async def test_what_could_not_be_written_is_tried_again(stage: Stage) -> None:
    stage.world.see_pod(pod_body("a", containers=BIG))
    await stage.after(0)
    stage.written.works = False
    assert await stage.after(PATIENCE_S) == []
    stage.written.works = True
    assert len(await stage.after(QUIET_S)) == 1
    failed = stage.metrics.registry.get_sample_value("mica_extender_events_total", {"outcome": "failed"})
    assert failed == 1


async def test_a_pod_that_fits_somewhere_waits_for_others_and_is_told_nothing(stage: Stage) -> None:
    stage.world.see_pod(pod_body("a"))
    await stage.after(0)
    assert await stage.after(PATIENCE_S) == []


@pytest.mark.parametrize(
    "change",
    [
        {"node": "n1"},
        {"phase": "Failed"},
    ],
    ids=["bound", "ended"],
)
async def test_pods_that_do_not_wait_are_told_nothing(stage: Stage, change: dict[str, Any]) -> None:
    stage.world.see_pod(pod_body("a", containers=BIG, **change))
    await stage.after(0)
    assert await stage.after(PATIENCE_S) == []


async def test_a_thousand_waiting_pods_are_told_a_few_at_a_time_and_all_in_the_end(stage: Stage) -> None:
    for index in range(1000):
        stage.world.see_pod(pod_body(f"p{index}", containers=BIG))
    await stage.after(0)
    told: list[PodEvent] = []
    steps = 0
    while len(told) < 1000 and steps < 100:
        new = await stage.after(PATIENCE_S)
        assert len(new) <= EVENTS_PER_STEP
        told += new
        steps += 1
    assert {event.pod for event in told} == {f"p{index}" for index in range(1000)}
    assert len({event.name for event in told}) == 1000


async def test_a_pod_whose_request_cannot_be_honoured_is_told_the_problem(stage: Stage) -> None:
    body = pod_body("a")
    body["metadata"]["annotations"][names.ANNOTATION_REQUEST] = "{}"
    stage.world.see_pod(body)
    await stage.after(0)
    (event,) = await stage.after(PATIENCE_S)
    assert "malformed" in event.message


async def test_pods_of_many_kinds_are_all_told_with_one_look_at_the_nodes_a_step(stage: Stage) -> None:
    for index in range(30):
        kind = (ContainerRequest("main", number=1, memory_mib=90_000 + index),)
        stage.world.see_pod(pod_body(f"p{index}", containers=kind))
    await stage.after(0)
    told: set[str] = set()
    for _ in range(30):
        new = await stage.after(PATIENCE_S)
        assert len(new) == 1
        told |= {event.pod for event in new}
    assert len(told) == 30


async def test_a_cluster_without_gpu_nodes_says_so() -> None:
    world = World()
    pod = world.see_pod(pod_body("a"))
    assert pod.shape is not None
    words = words_of(await survey(pod.shape, pod.uid, world.ledger))
    assert words is not None
    assert words.message.startswith("no node reports GPUs")


async def test_nodes_of_one_code_are_told_together_and_the_message_is_bounded() -> None:
    world = World()
    for index in range(30):
        world.see_node(node_body(f"n{index}", gpus=1 + index % 8, memory_mib=10))
    pod = world.see_pod(pod_body("a", containers=BIG))
    assert pod.shape is not None
    words = words_of(await survey(pod.shape, pod.uid, world.ledger))
    assert words is not None
    assert words.message.startswith("0/30 GPU nodes have room: 30 nodes like ")
    assert len(message_of(pod, Words("x" * 5000, ""))) == MAX_MESSAGE


@pytest.mark.parametrize("pod", ["a", "a" * 253, f"{'a' * 199}.{'b' * 50}"])
def test_names_of_events_are_valid_names(pod: str) -> None:
    name = PodEvent("default", pod, "uid", "", 1).name
    assert len(name) <= 253
    assert ".." not in name
    assert ".-" not in name


async def test_a_pod_that_only_waits_for_its_turn_has_no_node_asked_for_words(stage: Stage) -> None:
    stage.world.see_node(node_body("n1"))
    stage.world.see_pod(pod_body("a"))
    await stage.after(0)
    ledger = stage.world.ledger
    with patch.object(ledger, "without", wraps=ledger.without) as asked:
        assert await stage.after(60) == []
    assert asked.mock_calls == []
