"""Whatever the order of events was, the fleet holds what a ledger holds that sees only the end of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_extender.placement import NodeState
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PoolRecord
from mica_runtime.reflector import Change

from .conftest import World, node_body, pod_body

NODES = ("n1", "n2")
PODS = ("a", "b", "c")
nodes = st.sampled_from(NODES)
pods = st.sampled_from(PODS)
amounts = st.tuples(st.sampled_from([1024, 2048]), st.sampled_from([0, 30]))
cards = st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True)


def shares_on(node: str, indices: list[int], amount: tuple[int, int]) -> tuple[tuple[GPUShare, ...], ...]:
    return (tuple(GPUShare(f"GPU-{node}-{i}", *amount) for i in indices),)


class Histories(RuleBasedStateMachine):
    """A world in which anything may happen to nodes, pods and reservations."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.pools: dict[str, PoolRecord] = {}
        self.revision = 0

    @rule(
        name=nodes,
        gpus=st.integers(0, 4),
        ready=st.booleans(),
        holder=pods,
        on=cards,
        amount=amounts,
        holds=st.booleans(),
        cpu=st.sampled_from([None, {"allocatableMilli": 9000, "requestedMilli": 500}]),
    )
    def node_seen(
        self, name: str, gpus: int, ready: bool, holder: str, on: list[int], amount: tuple[int, int], holds: bool, cpu: Any
    ) -> None:
        held = [{"uuid": f"GPU-{name}-{i}", "memoryMiB": amount[0], "cores": amount[1]} for i in on]
        status: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        if holds:
            status["slices"] = [{"podUID": f"uid-{holder}", "gpus": held}]
        if cpu:
            status["cpu"] = cpu
        self.world.see_node(node_body(name, gpus=gpus, max_slices=3, **status))

    @rule(name=nodes)
    def node_gone(self, name: str) -> None:
        if name in self.world.nodes:
            self.world.ledger.apply_node(Change(name, self.world.nodes.pop(name), None))

    @rule(name=pods, node=st.sampled_from(["", *NODES]), on=cards, amount=amounts, phase=st.sampled_from(["Running", "Failed"]))
    def pod_seen(self, name: str, node: str, on: list[int], amount: tuple[int, int], phase: str) -> None:
        self.revision += 1
        known = self.world.pods.get(f"default/{name}")
        if known is not None and known.node and known.node != node:
            return
        stored = encode_pod_allocation(pod_uid=f"uid-{name}", node=node, shares=shares_on(node, on, amount)) if node else {}
        body = pod_body(name, node=node, annotations=stored, revision=str(self.revision), phase=phase)
        body["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "250m"}
        self.world.see_pod(body)

    @rule(name=pods)
    def pod_gone(self, name: str) -> None:
        if f"default/{name}" in self.world.pods:
            self.world.lose_pod(f"default/{name}")

    @rule(name=pods, node=nodes, on=cards, amount=amounts, settled=st.booleans())
    def reserved(self, name: str, node: str, on: list[int], amount: tuple[int, int], settled: bool) -> None:
        act = self.world.ledger.settle if settled else self.world.ledger.reserve
        act(pod_uid=f"uid-{name}", node=node, shares=shares_on(node, on, amount))

    @rule(name=pods)
    def released(self, name: str) -> None:
        self.world.ledger.release(f"uid-{name}")

    @rule(policy=st.sampled_from(["binpack", "spread", None]))
    def pool_seen(self, policy: Any) -> None:
        old = self.pools.pop("default", None)
        new = PoolRecord("default", node_policy=policy, gpu_policy=policy) if policy else None
        if new is not None:
            self.pools["default"] = new
        if old is not None or new is not None:
            self.world.ledger.apply_pool(Change("default", old, new))

    @invariant()
    def equals_one_built_from_scratch(self) -> None:
        fresh = Ledger()
        for node in self.world.nodes.values():
            fresh.apply_node(Change(node.name, None, node))
        for pod in self.world.pods.values():
            fresh.apply_pod(Change(pod.key, None, pod))
        for pool in self.pools.values():
            fresh.apply_pool(Change(pool.name, None, pool))
        for uid in (f"uid-{name}" for name in PODS):
            kept = self.world.ledger.reservation(uid)
            if kept is not None:
                fresh.reserve(pod_uid=uid, node=kept.node, shares=kept.shares)
        assert seen(self.world.ledger) == seen(fresh)

    @invariant()
    def nothing_is_remembered_of_what_is_gone(self) -> None:
        size = self.world.ledger.size()
        assert size.nodes == len(self.world.nodes) == len(self.world.ledger.fleet)
        assert size.pods <= len(self.world.pods)
        assert self.world.ledger.fleet.node_rows <= len(NODES)


def seen(ledger: Ledger) -> dict[str, tuple[NodeState, int, int]]:
    fleet = ledger.fleet
    return {
        state.name: (state, int(fleet.cpu_total[fleet.index[state.name]]), int(fleet.cpu_left[fleet.index[state.name]]))
        for state in ledger.nodes()
    }


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_any_history_leaves_the_fleet_that_a_fresh_ledger_makes = Histories.TestCase


def test_cpu_of_bound_and_reserved_pods_is_taken_once(world: World) -> None:
    world.see_node(node_body("n1", cpu={"allocatableMilli": 4000, "requestedMilli": 500}))
    body = pod_body()
    body["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "1500m"}
    record = world.see_pod(body)
    assert (record.cpu_milli, record.shape and record.shape.cpu_milli) == (1500, 1500)
    fleet = world.ledger.fleet
    assert fleet.cpu_left[0] == 3500
    world.ledger.reserve(pod_uid="uid-a", node="n1", shares=((GPUShare("GPU-n1-0", 3072, 20),),))
    assert fleet.cpu_left[0] == 2000
    bound = world.bound_body(body, "n1")
    world.see_pod(bound)
    assert fleet.cpu_left[0] == 2000
    world.see_pod({**bound, "status": {"phase": "Succeeded"}})
    assert fleet.cpu_left[0] == 3500


def test_a_pods_cpu_counts_its_sidecars_and_its_hungriest_init_container(world: World) -> None:
    body = json.loads(json.dumps(pod_body()))
    body["spec"]["initContainers"] = [
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
        {"name": "init", "resources": {"requests": {"cpu": "3"}}},
        {"name": "odd", "resources": {"requests": {"cpu": "not an amount"}}},
    ]
    assert world.see_pod(body).cpu_milli == 3100
