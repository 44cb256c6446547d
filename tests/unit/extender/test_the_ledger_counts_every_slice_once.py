"""What counts, for how long, and what does not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mica_api import names
from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_api.request import ContainerRequest, PodRequest
from mica_extender.placement import Code, Placement, Rejection, Shape, Verdict, choose
from mica_extender.state.records import PoolRecord, decode_node, decode_pod
from mica_runtime.reflector import Change

from .conftest import World, node_body, pod_body

FREE = (0, 0, 0)
TAKEN = (3072, 20, 1)


def held(uid: str, *, card: str = "GPU-n1-0", mib: int = 3072, cores: int = 20, container: str = "main") -> dict[str, Any]:
    return {
        "podUID": uid,
        "namespace": "default",
        "pod": "a",
        "container": container,
        "gpus": [{"uuid": card, "memoryMiB": mib, "cores": cores}],
    }


def test_a_bound_pod_counts_and_a_pending_one_does_not(world: World) -> None:
    world.see_pod(pod_body())
    assert world.used("n1")[0] == FREE
    world.see_pod(world.bound_body(pod_body(), "n1"))
    assert world.used("n1")[0] == TAKEN


def test_what_is_stored_held_and_reserved_for_one_pod_counts_once(world: World) -> None:
    world.see_pod(pod_body())
    world.ledger.reserve(pod_uid="uid-a", node="n1", shares=((GPUShare("GPU-n1-0", 3072, 20),),))
    world.see_node(node_body("n1", slices=[held("uid-a")]))
    assert world.used("n1")[0] == TAKEN
    bound = pod_body(
        node="n1", annotations=encode_pod_allocation(pod_uid="uid-a", node="n1", shares=[[GPUShare("GPU-n1-0", 3072, 20)]])
    )
    world.see_pod(bound)
    assert world.used("n1")[0] == TAKEN


def test_a_slice_is_free_only_when_the_pod_is_gone_and_the_node_agent_has_let_go(world: World) -> None:
    world.see_pod(world.bound_body(pod_body(), "n1"))
    world.see_node(node_body("n1", slices=[held("uid-a")]))
    world.lose_pod("default/a")
    assert world.used("n1")[0] == TAKEN
    world.see_node(node_body("n1"))
    assert world.used("n1")[0] == FREE


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_counts_no_longer(world: World, phase: str) -> None:
    bound = world.bound_body(pod_body(), "n1")
    world.see_pod(bound)
    world.see_pod({**bound, "status": {"phase": phase}})
    assert world.used("n1")[0] == FREE


def test_a_terminating_pod_still_counts(world: World) -> None:
    bound = world.bound_body(pod_body(), "n1")
    bound["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.see_pod(bound)
    assert world.used("n1")[0] == TAKEN


@pytest.mark.parametrize(
    ("uid", "node"), [("somebody-else", "n1"), ("uid-a", "other-node")], ids=["another pod's", "another node's"]
)
def test_a_decision_for_somebody_else_never_counts(world: World, uid: str, node: str) -> None:
    forged = encode_pod_allocation(pod_uid=uid, node=node, shares=[[GPUShare("GPU-n1-0", 3072, 20)]])
    world.see_pod(pod_body(node="n1", annotations=forged))
    assert world.used("n1")[0] == FREE


def test_an_unreadable_decision_never_counts(world: World) -> None:
    world.see_pod(pod_body(node="n1", annotations={names.allocation_annotation(0): "{"}))
    assert world.used("n1")[0] == FREE


def test_a_name_that_is_used_again_is_a_new_pod(world: World) -> None:
    world.see_pod(world.bound_body(pod_body(uid="first"), "n1"))
    world.see_pod(pod_body(uid="second"))
    assert world.used("n1")[0] == FREE


def test_a_reservation_ends_when_the_watch_shows_the_pod_bound(world: World) -> None:
    world.see_pod(pod_body())
    shares = ((GPUShare("GPU-n1-0", 3072, 20),),)
    world.ledger.reserve(pod_uid="uid-a", node="n1", shares=shares)
    world.ledger.settle(pod_uid="uid-a", node="n1", shares=shares)
    assert world.used("n1")[0] == TAKEN
    world.see_pod(pod_body(node="n1", annotations=encode_pod_allocation(pod_uid="uid-a", node="n1", shares=shares)))
    assert world.ledger.reservation("uid-a") is None
    assert world.used("n1")[0] == TAKEN


def test_an_event_of_before_the_bind_leaves_the_reservation(world: World) -> None:
    """A condition that kube-scheduler has written, say, is seen while the Binding is under way, or after it was stored."""
    world.see_pod(pod_body())
    shares = ((GPUShare("GPU-n1-0", 3072, 20),),)
    world.ledger.reserve(pod_uid="uid-a", node="n1", shares=shares)
    world.see_pod(pod_body(revision="2"))
    assert world.used("n1")[0] == TAKEN
    world.ledger.settle(pod_uid="uid-a", node="n1", shares=shares)
    world.see_pod(pod_body(revision="3"))
    assert world.used("n1")[0] == TAKEN


def test_a_decision_that_is_confirmed_after_the_pod_is_gone_leaves_nothing(world: World) -> None:
    world.see_pod(pod_body())
    shares = ((GPUShare("GPU-n1-0", 3072, 20),),)
    world.ledger.reserve(pod_uid="uid-a", node="n1", shares=shares)
    world.lose_pod("default/a")
    assert world.used("n1")[0] == TAKEN, "the write may still be under way"
    world.ledger.settle(pod_uid="uid-a", node="n1", shares=shares)
    assert world.used("n1")[0] == FREE


def test_two_containers_on_one_card_are_two_slices(world: World) -> None:
    containers = [ContainerRequest(name, number=1, cores=10, memory_mib=1024) for name in ("a", "b")]
    world.see_pod(world.bound_body(pod_body(containers=containers), "n1"))
    assert world.used("n1")[0] == (2048, 20, 2)


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"maxSlicesPerGPU": 2**40}, {}),
        ({"maxSlicesPerGPU": 0}, {}),
        ({"memoryOvercommitPercent": 2**60}, {}),
        ({"gpus": [{"uuid": "GPU-0", "index": 0, "model": "A100", "memoryMiB": 2**62}]}, {}),
        ({"gpus": [{"uuid": "GPU-0", "index": 0, "model": "A100", "memoryMiB": -1}]}, {}),
        ({}, {"slices": [{"podUID": "x", "gpus": [{"uuid": "GPU-n1-0", "memoryMiB": 2**62, "cores": 0}] * 2}]}),
        ({}, {"slices": [{"podUID": "x", "gpus": [{"uuid": "GPU-n1-0", "memoryMiB": -50_000, "cores": -50}]}]}),
        ({}, {"cpu": {"allocatableMilli": 1, "requestedMilli": -(2**63)}}),
    ],
)
def test_a_node_that_says_what_no_node_has_cannot_be_read(spec: dict[str, Any], status: dict[str, Any]) -> None:
    """And is left out by the watch, instead of ending the process in the arrays that the amounts are summed in."""
    body = node_body("n1", **status)
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        decode_node(json.dumps({**body, "spec": {**body["spec"], **spec}}).encode())


def test_pods_are_counted_again_when_their_node_comes_back(world: World) -> None:
    world.see_pod(world.bound_body(pod_body(), "n1"))
    world.ledger.apply_node(Change("n1", world.nodes.pop("n1"), None))
    assert world.ledger.node("n1") is None
    world.see_node(node_body("n1"))
    assert world.used("n1")[0] == TAKEN


def test_a_state_of_a_node_is_the_same_object_until_something_changes(world: World) -> None:
    before = world.ledger.node("n1")
    world.see_pod(pod_body())
    assert world.ledger.node("n1") is before


def test_the_pools_policies_reach_its_nodes(world: World) -> None:
    world.ledger.apply_pool(Change("default", None, PoolRecord("default", node_policy="spread", gpu_policy=("spread",))))
    state = world.ledger.node("n1")
    assert state is not None
    assert (state.node_policy, state.gpu_policy) == ("spread", ("spread",))


def test_a_pool_that_is_written_again_unchanged_announces_nothing_and_keeps_every_state(world: World) -> None:
    pool = PoolRecord("default", node_policy="spread", gpu_policy=("spread",))
    quiet = world.gains
    world.ledger.apply_pool(Change("default", None, pool))
    assert world.gains == quiet, "a policy makes no pod fit that did not"
    before = world.ledger.node("n1")
    world.ledger.apply_pool(Change("default", pool, PoolRecord("default", node_policy="spread", gpu_policy=("spread",))))
    assert world.gains == quiet
    assert world.ledger.node("n1") is before


def test_what_frees_is_announced_and_what_is_taken_is_not(world: World) -> None:
    bound = world.bound_body(pod_body(), "n1")
    quiet = world.gains
    world.see_pod(bound)
    assert world.gains == quiet
    world.lose_pod("default/a")
    assert world.gains == quiet + 1


def test_a_reservation_that_is_given_back_is_announced(world: World) -> None:
    world.ledger.reserve(pod_uid="x", node="n1", shares=((GPUShare("GPU-n1-0", 1, 0),),))
    quiet = world.gains
    world.ledger.release("x")
    assert world.gains == quiet + 1


def test_a_card_that_recovers_is_announced(world: World) -> None:
    sick = node_body("n1")
    sick["spec"]["gpus"][0]["health"] = "Unhealthy"
    world.see_node(sick)
    quiet = world.gains
    world.see_node(node_body("n1"))
    assert world.gains == quiet + 1


def test_a_node_whose_agent_is_away_takes_nothing_and_is_announced_when_it_is_back(world: World) -> None:
    wanted = Shape(PodRequest((ContainerRequest("main", number=1, cores=10),)))

    def verdict() -> Verdict:
        state = world.ledger.node("n1")
        assert state is not None
        return choose(wanted, state)

    world.see_node(node_body("n1", conditions=[{"type": "Ready", "status": "False"}]))
    assert verdict() == Rejection(Code.UNREGISTERED)
    before = world.gains
    world.see_node(node_body("n1", conditions=[{"type": "Ready", "status": "True"}]))
    assert isinstance(verdict(), Placement)
    assert world.gains == before + 1


def test_a_pool_that_no_longer_demands_empty_cards_announces_a_gain(world: World) -> None:
    strict, loose = PoolRecord("default", gpu_policy=("mutex",)), PoolRecord("default", gpu_policy=("binpack",))
    world.ledger.apply_pool(Change("default", None, strict))
    before = world.gains
    world.ledger.apply_pool(Change("default", strict, loose))
    assert world.gains == before + 1
    world.ledger.apply_pool(Change("default", loose, strict))
    assert world.gains == before + 1


def test_pods_that_differ_in_what_decides_nothing_share_one_shape() -> None:
    one, other, different = (
        decode_pod(json.dumps(pod_body(name, annotations=annotations)).encode()).shape
        for name, annotations in (
            ("a", {"example.com/checksum": "1" * 10_000}),
            ("b", {"example.com/checksum": "2" * 10_000}),
            ("c", {"nvidia.com/use-gputype": "A100"}),
        )
    )
    assert one is not None
    assert one is other
    assert one != different


def test_cpu_that_is_requested_for_the_whole_pod_is_read() -> None:
    body = pod_body()
    body["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "1"}
    body["spec"]["resources"] = {"requests": {"cpu": "3"}}
    assert decode_pod(json.dumps(body).encode()).cpu_milli == 3000
