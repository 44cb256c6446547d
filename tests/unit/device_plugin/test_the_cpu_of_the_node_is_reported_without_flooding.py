from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from agent_under_test import CARDS, FakeCluster
from hypothesis import given
from hypothesis import strategies as st

from mica_api.models.vgpu_node import NodeCPU
from mica_api.sharing import Sharing
from mica_device_plugin.cluster import NodeView, decode_pod
from mica_device_plugin.discovery import Survey
from mica_device_plugin.node_cpu import node_cpu, worth_writing
from mica_device_plugin.publisher import Publisher
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import Inventory, PodView, PoolChoice


def pod(name: str, milli: int, *, finished: bool = False, labelled: bool = False) -> PodView:
    return PodView(name, "d", name, "node-1", {}, (), finished, milli, labelled)


def cpu(requested: int, allocatable: int = 64_000) -> NodeCPU:
    return NodeCPU(allocatable_milli=allocatable, requested_milli=requested)


def test_pods_on_slices_and_finished_ones_are_not_counted():
    pods = [pod("a", 500), pod("b", 250), pod("c", 4000, labelled=True), pod("d", 1000, finished=True)]
    assert node_cpu(64_000, pods) == cpu(750)
    assert node_cpu(None, pods) is None


@pytest.mark.parametrize(
    ("before", "now", "worth"),
    [
        (cpu(0), cpu(640), False),
        (cpu(0), cpu(641), True),
        (cpu(641), cpu(0), True),
        (cpu(0, 4000), cpu(100, 4000), False),
        (cpu(0, 4000), cpu(101, 4000), True),
        (cpu(0, 4000), cpu(0, 3999), True),
        (None, cpu(0), True),
        (cpu(0), None, True),
        (None, None, False),
    ],
)
def test_small_changes_are_not_worth_a_write(before, now, worth):
    assert worth_writing(before, now) is worth


def test_the_request_of_a_pod_is_read_as_the_scheduler_reads_it():
    def read(spec: str, labels: str = "{}") -> PodView:
        return decode_pod(('{"metadata":{"name":"p","uid":"u","labels":' + labels + '},"spec":' + spec + "}").encode())

    apps = '"containers":[{"name":"a","resources":{"requests":{"cpu":"500m"}}},{"name":"b","resources":{"requests":{"cpu":"2"}}}]'
    inits = (
        '"initContainers":[{"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"100m"}}},'
        '{"name":"i","resources":{"requests":{"cpu":"3"}}}]'
    )
    assert read("{" + apps + "}").cpu_milli == 2500
    assert read("{" + apps + "," + inits + ',"overhead":{"cpu":"50m"}}').cpu_milli == 3150
    assert read("{" + apps + ',"resources":{"requests":{"cpu":"4"}}}').cpu_milli == 4000
    assert read('{"containers":[{"name":"a"}]}').cpu_milli == 0
    assert read('{"containers":[{"name":"a","resources":{"requests":{"cpu":"what"}}}]}').cpu_milli == 0
    assert read('{"containers":[]}', '{"mica.dev/slice":"true"}').labelled and not read('{"containers":[]}').labelled
    assert not read('{"containers":[]}', '{"mica.dev/slice":"no"}').labelled, (
        "the scheduler asks for the value true and does not see it"
    )


class World:
    """A publisher over fakes, with a clock that a test moves."""

    def __init__(self) -> None:
        self.time = 0.0
        self.cluster = FakeCluster()
        self.cluster.own = NodeView("node-uid", {}, {}, 64_000)
        self.state = AgentState(node_name="node-1")
        self.state.survey = Survey(Inventory("580", True, CARDS), {})
        self.state.pool, self.state.pool_known = PoolChoice("default", Sharing(10)), True
        self.publisher = Publisher(
            state=self.state, cluster=self.cluster, now=lambda: datetime(2026, 1, 1, tzinfo=UTC), clock=lambda: self.time
        )

    def run(self, pods: Iterable[PodView]) -> None:
        self.cluster.watched = {p.name: p for p in pods}

    @property
    def requested(self) -> int:
        stored = self.cluster.stored()
        assert stored is not None and stored.status is not None and stored.status.cpu is not None
        return stored.status.cpu.requested_milli


async def test_the_cpu_is_written_at_once_then_ten_seconds_apart_and_with_whatever_else_is_written():
    world = World()
    await world.publisher.publish()
    assert world.requested == 0
    writes = world.cluster.writes
    world.run([pod("big", 8000)])
    world.time = 9.9
    await world.publisher.publish()
    assert (world.requested, world.cluster.writes) == (0, writes)
    world.time = 10.0
    await world.publisher.publish()
    assert (world.requested, world.cluster.writes) == (8000, writes + 1)
    world.run([pod("big", 8000), pod("small", 10)])
    world.time = 100.0
    await world.publisher.publish()
    assert (world.requested, world.cluster.writes) == (8000, writes + 1)
    world.state.registered = True
    await world.publisher.publish()
    assert (world.requested, world.cluster.writes) == (8010, writes + 2)


async def test_another_change_is_not_held_back_by_the_cpu():
    world = World()
    await world.publisher.publish()
    world.run([pod("big", 8000)])
    world.state.registered = True
    await world.publisher.publish()
    assert world.requested == 8000


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 64_000)), max_size=60))
async def test_churn_costs_at_most_one_write_in_ten_seconds(changes):
    world = World()
    await world.publisher.publish()
    before = world.cluster.writes
    for wait, milli in changes:
        world.time += wait
        world.run([pod("p", milli)])
        await world.publisher.publish()
    assert world.cluster.writes - before <= world.time / 10
