"""The kernel's one call for filter and prioritize writes the bytes that the way over numpy writes, whatever happened before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mica_api.request import ContainerRequest
from mica_extender.metrics import Metrics
from mica_extender.placement.kernels import NumpyKernel, load_native
from mica_extender.placement.onepass import MAX_BYTES
from mica_extender.scheduling import wire
from mica_extender.scheduling.app import NOT_LEADING, SchedulerApp
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.verbs import FilterReply, NodeVerbs
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord

from .conftest import PodBody, World, node_body, pod_body

NODES = [f"node-{number}" for number in range(6)]
ASKED = [
    [ContainerRequest("main", number=1, cores=20, memory_mib=3072)],
    [ContainerRequest("main", number=2, cores=50, memory_mib=40_960)],
    [ContainerRequest("main", number=1, cores=100)],
    [ContainerRequest("main", number=1, memory_percent=30)],
    [ContainerRequest("main", number=0)],
]
names_asked = st.lists(st.sampled_from([*NODES, "unknown"]), max_size=12)


def question(asked: int, names: list[str], **more: Any) -> wire.NodeQuestion:
    body = pod_body(containers=ASKED[asked], **more)
    return wire.read_nodes(json.dumps({"Pod": body, "Nodes": None, "NodeNames": names}).encode())


def cluster() -> World:
    world = World()
    for number, name in enumerate(NODES):
        world.see_node(node_body(name, gpus=1 + number % 3, memory_mib=40_960 * (1 + number % 2), max_slices=2))
    return world


async def check(world: World, verbs: NodeVerbs, asked: wire.NodeQuestion) -> bool:
    """Whether the one call had an answer to filter; prioritize always has one."""
    slow = NodeVerbs(ledger=world.ledger, kernel=NumpyKernel())
    expected = await slow.filter(asked)
    found = verbs.filter_at_once(asked)
    assert found in (None, expected)
    assert verbs.prioritize_at_once(asked) == await slow.prioritize(asked)
    return found is not None


def bind_somewhere(world: World, number: int, asked: int, node: str) -> None:
    body = pod_body(f"p{number}", containers=ASKED[asked])
    try:
        world.see_pod(world.bound_body(body, node))
    except AssertionError:  # it has no room there
        return


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(NODES), st.integers(0, len(ASKED) - 1), names_asked), max_size=8)
)
async def test_its_answers_are_those_of_the_long_way(steps: list[tuple[int, str, int, list[str]]]) -> None:
    world = cluster()
    verbs = NodeVerbs(ledger=world.ledger, kernel=load_native())
    for number, (taken, node, asked, names) in enumerate(steps):
        bind_somewhere(world, number, taken, node)
        answered = await check(world, verbs, question(asked, names))
        fits = json.loads((await verbs.filter(question(asked, names))).body)["NodeNames"]
        assert answered is bool(fits)
        if number % 3 == 2:
            world.see_node(node_body(f"late-{number}"))


async def test_new_tables_of_the_mix_change_scores_on_both_ways() -> None:
    world = cluster()
    verbs = NodeVerbs(ledger=world.ledger, kernel=load_native())
    for number in range(40):
        assert await check(world, verbs, question(number % 4, NODES))
        world.see_pod(pod_body(f"w{number}", containers=ASKED[number % 4]))
        await world.ledger.learned.refresh()
    assert world.ledger.learned.tables.epoch > 3


@pytest.mark.parametrize(
    "asked",
    [
        question(0, ["unknown"]),
        question(0, []),
        question(0, ["node-0", 'quo"ted']),
        question(0, NODES * (MAX_BYTES // 60)),
        question(0, NODES, annotations={"mica.dev/gpu-policy": "topology"}),
    ],
    ids=["no node fits", "no nodes", "names with escapes", "long lists", "card policies of fit.py"],
)
async def test_what_it_cannot_tell_is_left_to_the_long_way(asked: wire.NodeQuestion) -> None:
    world = cluster()
    verbs = NodeVerbs(ledger=world.ledger, kernel=load_native())
    assert verbs.filter_at_once(asked) is None or verbs.prioritize_at_once(asked) is None


def test_without_the_kernel_there_is_no_answer_at_once() -> None:
    verbs = NodeVerbs(ledger=cluster().ledger, kernel=NumpyKernel())
    assert verbs.filter_at_once(question(0, NODES)) is None
    assert verbs.prioritize_at_once(question(0, NODES)) is None


class Switch:
    """Leadership by hand."""

    on = True

    def leading(self) -> bool:
        return self.on

    def term(self) -> str:
        return "by hand" if self.on else ""


class NeverAsked:
    """No Binding is written here."""

    async def bind(self, pod: PodRecord, *, node: str, annotations: Any) -> None:
        raise AssertionError("nothing is to be bound")

    async def read(self, pod: PodRecord) -> PodRecord:
        raise AssertionError("nothing is to be read")


def app_of(world: World, leadership: Any, synced: Any, nodes: NodeVerbs | None = None) -> SchedulerApp:
    return SchedulerApp(
        ledger=world.ledger,
        nodes=nodes or NodeVerbs(ledger=world.ledger, kernel=load_native()),
        binder=Binder(ledger=world.ledger, pods=world.pods, api=NeverAsked(), leadership=leadership),
        leadership=leadership,
        synced=synced,
        metrics=Metrics(CollectorRegistry()),
    )


def body_of(pod: PodBody, names: list[str]) -> bytes:
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": names}).encode()


@pytest.mark.parametrize("verb", ["filter", "prioritize"])
async def test_an_answer_at_once_is_the_answer(verb: str) -> None:
    app = app_of(cluster(), AlwaysLeading(), lambda: True)
    body = body_of(pod_body(), NODES)
    at_once = app.at_once("POST", f"/{verb}", body)
    assert at_once is not None
    assert at_once == await app.respond("POST", f"/{verb}", body)


async def test_who_does_not_lead_or_has_not_read_everything_answers_nothing_at_once() -> None:
    leadership, synced = Switch(), [True]
    app = app_of(cluster(), leadership, lambda: synced[0])
    body = body_of(pod_body(), NODES)
    assert app.at_once("POST", "/filter", body) is not None
    leadership.on = False
    assert app.at_once("POST", "/filter", body) is None
    assert NOT_LEADING in (await app.respond("POST", "/filter", body)).body.decode()
    leadership.on, synced[0] = True, False
    assert app.at_once("POST", "/filter", body) is None


class Broken(NodeVerbs):
    """Fails where the kernel would answer."""

    def filter_at_once(self, question: wire.NodeQuestion) -> FilterReply | None:
        raise RuntimeError("broken")


async def test_what_fails_at_once_is_answered_the_long_way() -> None:
    world = cluster()
    app = app_of(world, AlwaysLeading(), lambda: True, Broken(ledger=world.ledger, kernel=load_native()))
    body = body_of(pod_body(), NODES)
    assert app.at_once("POST", "/filter", body) is None
    assert (await app.respond("POST", "/filter", body)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/filter", b"{}"), ("POST", "/bind", b"{}"), ("POST", "/nothing", b"{}"), ("POST", "/filter", b"not JSON")],
)
def test_everything_else_is_not_answered_at_once(method: str, path: str, body: bytes) -> None:
    assert app_of(cluster(), AlwaysLeading(), lambda: True).at_once(method, path, body) is None
