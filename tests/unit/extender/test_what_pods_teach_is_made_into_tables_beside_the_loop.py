"""``Learned``: pods are counted at once, tables come later and hold until others are made."""

from __future__ import annotations

import asyncio

from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Shape
from mica_extender.placement.fleet import Fleet
from mica_extender.placement.mix import NOTHING_LEARNED
from mica_extender.state.learned import MAX_PENDING, Learned


def fleet() -> Fleet:
    return Fleet([NodeState("a", 4, tuple(Card(f"GPU-{i}", i, "NVIDIA A100", 8192) for i in range(4)))])


def shape(memory_mib: int) -> Shape:
    return Shape(PodRequest((ContainerRequest("main", 1, 10, memory_mib),)), Selection(), 1000)


async def test_nothing_is_learned_before_a_pod_has_come() -> None:
    learned = Learned(fleet())
    await learned.refresh()
    assert learned.tables is NOTHING_LEARNED


async def test_tables_change_with_the_next_refresh_and_hold_until_an_epoch() -> None:
    learned = Learned(fleet())
    for _ in range(100):
        learned.observe(shape(5000))
    assert learned.tables is NOTHING_LEARNED
    await learned.refresh()
    first = learned.tables
    assert first.epoch == 1
    assert any(first.waste_of("NVIDIA A100"))
    learned.observe(shape(3000))
    await learned.refresh()
    assert learned.tables is first


async def test_pods_that_come_while_tables_are_made_count_for_the_next_ones() -> None:
    learned = Learned(fleet())
    learned.observe(shape(5000))
    making = asyncio.create_task(learned.refresh())
    await asyncio.sleep(0)
    for _ in range(MAX_PENDING + 5):
        learned.observe(shape(3000))
    await making
    before = learned.tables
    await learned.refresh()
    assert learned.tables.epoch == before.epoch + 1


async def test_the_compiled_tables_follow_tables_and_layout() -> None:
    nodes = fleet()
    learned = Learned(nodes)
    first = learned.compiled()
    assert learned.compiled() is first
    nodes.put(NodeState("b", 4, (Card("GPU-9", 0, "Tesla T4", 4096),)))
    second = learned.compiled()
    assert second is not first
    assert len(second.first) == 2


async def test_nothing_is_made_before_the_lists_are_complete() -> None:
    learned = Learned(fleet())
    learned.observe(shape(5000))
    running = asyncio.create_task(learned.run(lambda: False))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert learned.tables is NOTHING_LEARNED
