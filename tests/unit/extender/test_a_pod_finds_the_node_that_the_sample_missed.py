"""kube-scheduler asks about a sample of the nodes; a pod must not be left waiting because the sample had no room."""

from __future__ import annotations

import asyncio
import json

from prometheus_client import CollectorRegistry, Counter

from mica_api.request import ContainerRequest
from mica_extender.placement.kernels import NumpyKernel
from mica_extender.scheduling import wire
from mica_extender.scheduling.samples import MAX_SPACING_S, ROUNDS, SMALLEST_SAMPLE, Samples
from mica_extender.scheduling.verbs import NodeVerbs

from .conftest import World, node_body, pod_body
from .harness.loop import VirtualLoop

LARGE = (ContainerRequest("main", number=8, cores=100, memory_mib=3072),)
SMALL_NODES = [f"small{index}" for index in range(2 * SMALLEST_SAMPLE)]


def question(names: list[str]) -> wire.NodeQuestion:
    body = {"Pod": pod_body(containers=LARGE), "Nodes": None, "NodeNames": names}
    return wire.read_nodes(json.dumps(body).encode())


def crowd(world: World) -> None:
    for name in SMALL_NODES:
        world.see_node(node_body(name))


async def test_a_sample_without_room_is_told_apart_from_a_cluster_without_room(world: World) -> None:
    crowd(world)
    verbs = NodeVerbs(ledger=world.ledger, kernel=NumpyKernel())
    asked = question(SMALL_NODES[:SMALLEST_SAMPLE])
    assert (await verbs.filter(asked)).missed == 0
    world.see_node(node_body("large", gpus=8))
    assert [(await verbs.filter(asked)).missed for _ in range(2)] == [3, 3]


async def test_fewer_nodes_than_any_sample_has_are_all_that_suit_the_pod(world: World) -> None:
    crowd(world)
    world.see_node(node_body("large", gpus=8))
    verbs = NodeVerbs(ledger=world.ledger, kernel=NumpyKernel())
    assert (await verbs.filter(question(SMALL_NODES[: SMALLEST_SAMPLE - 1]))).missed == 0


async def test_a_sample_with_a_fitting_node_missed_nothing(world: World) -> None:
    crowd(world)
    world.see_node(node_body("large", gpus=8))
    verbs = NodeVerbs(ledger=world.ledger, kernel=NumpyKernel())
    assert (await verbs.filter(question([*SMALL_NODES[:SMALLEST_SAMPLE], "large"]))).missed == 0


def tries(*, hopeless: int, seconds: float, found_after: int = 10**9, samples: int = 10, newcomer_at: float = 0.0) -> list[float]:
    """Moments of another try, when as many pods are missed again at each of them."""
    moments: list[float] = []
    counter = Counter("missed", "", registry=CollectorRegistry())

    async def story() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            moments.append(loop.time())
            loop.call_later(0.01, attempt)

        def attempt() -> None:
            for pod in range(hopeless):
                if len(moments) < found_after:
                    watch.missed(f"uid-{pod}", samples=samples)
                else:
                    watch.judged(f"uid-{pod}")

        watch = Samples(again, missed=counter)
        running = asyncio.create_task(watch.run())
        attempt()
        if newcomer_at:
            loop.call_later(newcomer_at, lambda: watch.missed("uid-new", samples=samples))
        await asyncio.sleep(seconds)
        running.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())
    return moments


def test_the_sample_goes_around_the_cluster_twice_in_quick_succession() -> None:
    moments = tries(hopeless=1, seconds=10)
    quick = moments[: ROUNDS * 10]
    assert quick[-1] - quick[0] < ROUNDS * 10 * 0.25


def test_a_pod_that_found_its_node_is_not_announced_again() -> None:
    assert len(tries(hopeless=3, seconds=600, found_after=4)) == 4


def test_hopeless_pods_are_tried_once_a_minute_in_the_end() -> None:
    moments = tries(hopeless=50, seconds=3600)
    assert len(moments) <= ROUNDS * 10 + 10 + 3600 / MAX_SPACING_S
    assert moments[-1] - moments[-2] >= MAX_SPACING_S


def test_a_new_pod_does_not_wait_for_the_hopeless_ones() -> None:
    moments = tries(hopeless=1, seconds=1000, newcomer_at=900.0)
    assert len([moment for moment in moments if 900 <= moment - moments[0] + 0.01 <= 905]) >= ROUNDS * 10
