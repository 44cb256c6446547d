"""A pod whose cards are hard to find costs a bounded number of tries, with pauses in which binds and probes are answered."""

from __future__ import annotations

import asyncio
import json

from mica_api.request import ContainerRequest
from mica_extender.effort import PAUSE_EVERY, REQUEST_BUDGET, Effort
from mica_extender.explain import explain
from mica_extender.placement import SEARCH_BUDGET, Placement
from mica_extender.placement.kernels import NumpyKernel
from mica_extender.scheduling.verbs import NodeVerbs
from mica_extender.scheduling.verdicts import Judge
from mica_extender.scheduling.wire import NodeQuestion
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord, decode_node, decode_pod
from mica_runtime.reflector import Change

from .conftest import World, node_body, pod_body

GIB = 1024
NODES = [f"n{i}" for i in range(60)]
HARD = [ContainerRequest(f"c{gib}", number=4, memory_mib=gib * GIB) for gib in (19, 20, 21, 22, 23, 24)]


def hard_pod() -> PodRecord:
    return decode_pod(json.dumps(pod_body(containers=HARD)).encode())


def uneven_nodes() -> Ledger:
    """Nodes whose cards all differ, so that no combination stands for another."""
    ledger = Ledger()
    for name in NODES:
        held = [
            {"podUID": f"u{i}", "gpus": [{"uuid": f"GPU-{name}-{i}", "memoryMiB": (10 + i) * GIB, "cores": 0}]} for i in range(8)
        ]
        ledger.apply_node(Change(name, None, decode_node(json.dumps(node_body(name, gpus=8, slices=held)).encode())))
    return ledger


class Turns:
    """Counts how often the event loop comes round to somebody else."""

    def __init__(self) -> None:
        self.count = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


def question(pod: PodRecord) -> NodeQuestion:
    return NodeQuestion(pod, json.dumps(NODES).encode(), None)


async def test_a_request_over_many_nodes_lets_others_run_between_them() -> None:
    ledger = uneven_nodes()
    for work in (
        NodeVerbs(ledger=ledger, kernel=NumpyKernel()).filter(question(hard_pod())),
        NodeVerbs(ledger=ledger, kernel=NumpyKernel()).prioritize(question(hard_pod())),
        explain(hard_pod(), ledger),
    ):
        turns = Turns()
        await work
        turns.task.cancel()
        assert turns.count >= REQUEST_BUDGET // (2 * SEARCH_BUDGET)


async def test_a_kernel_that_takes_long_for_many_nodes_lets_others_run() -> None:
    effort, turns = Effort(), Turns()
    for _ in range(8):
        await effort.share(0.5)
    turns.task.cancel()
    assert turns.count >= 3


async def test_one_request_tries_a_bounded_number_of_combinations_over_all_nodes() -> None:
    ledger, effort, pod = uneven_nodes(), Effort(), hard_pod()
    assert pod.shape is not None
    for state in ledger.nodes():
        effort.search(pod.shape, state)
    assert REQUEST_BUDGET <= effort.tried <= REQUEST_BUDGET + len(NODES) * len(HARD)


async def test_the_next_request_goes_on_where_the_budget_of_one_ended() -> None:
    ledger, pod = uneven_nodes(), hard_pod()
    judge = Judge(ledger, NumpyKernel())
    assert pod.shape is not None
    spent, finals = [], []
    for _ in range(10):
        effort = Effort()
        finals.append((await judge.verdicts(pod.shape, ledger.fleet.rows(NODES), effort))[1])
        spent.append(effort.tried)
    assert spent[0] > REQUEST_BUDGET - SEARCH_BUDGET
    assert not finals[0]
    assert spent[-1] == 0, "every node has had its full search"
    assert finals[-1]


async def test_a_pod_of_one_container_is_decided_on_every_node_however_many_there_are(world: World) -> None:
    effort = Effort()
    effort.tried = REQUEST_BUDGET
    pod, state = decode_pod(json.dumps(pod_body()).encode()), world.ledger.node("n1")
    assert pod.shape is not None
    assert state is not None
    found, final = effort.search(pod.shape, state)
    assert isinstance(found.verdict, Placement)
    assert final
    assert PAUSE_EVERY > 1


async def test_a_pod_that_was_refused_only_because_the_request_had_cost_enough_is_asked_about_again() -> None:
    """Here no node but the last has room, and one request does not come that far."""
    ledger = uneven_nodes()
    left_by_sums_alone = (12, 6, 14, 22, 3, 4, 28, 35)
    for name in NODES[:-1]:
        gpus = [{"uuid": f"GPU-{name}-{i}", "memoryMiB": gib * GIB, "cores": 0} for i, gib in enumerate(left_by_sums_alone)]
        body = node_body(name, gpus=8, slices=[{"podUID": "u", "gpus": gpus}])
        ledger.apply_node(Change(name, None, decode_node(json.dumps(body).encode())))
    verbs = NodeVerbs(ledger=ledger, kernel=NumpyKernel())
    missed = [(await verbs.filter(question(hard_pod()))).missed for _ in range(3)]
    assert missed[0] == 1
    assert missed[-1] == 0
