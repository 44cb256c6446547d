from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mica_api.models import VGPUNode
from mica_operator.core.pools import node_totals, pool_status


def _node(
    name: str = "n", *, pool: str = "a", gpus: int = 2, sick: int = 0, held: int = 0, ready: str | None = "True"
) -> VGPUNode:
    cards: list[dict[str, Any]] = [
        {"uuid": f"GPU-{i}", "index": i, "model": "m", "memoryMiB": 81920, "health": "Unhealthy" if i < sick else "Healthy"}
        for i in range(gpus)
    ]
    slices = [
        {
            "podUID": f"u{i}",
            "namespace": "d",
            "pod": f"p{i}",
            "container": "c",
            "gpus": [{"uuid": "GPU-0", "memoryMiB": 3072, "cores": 20}],
        }
        for i in range(held)
    ]
    conditions = (
        [{"type": "Ready", "status": ready, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}] if ready else []
    )
    spec = {"pool": pool, "maxSlicesPerGPU": 10, "driver": {"version": "1", "simulated": True}, "gpus": cards}
    return VGPUNode.model_validate(
        {"metadata": {"name": name}, "spec": spec, "status": {"slices": slices, "conditions": conditions}}
    )


def test_capacity_and_what_is_taken_are_summed_over_the_pools_nodes() -> None:
    nodes = [node_totals(_node("a", held=2)), node_totals(_node("b")), node_totals(_node("c", pool="other", held=5))]
    status = pool_status("a", nodes)
    assert (status.nodes, status.gpus) == (2, 4)
    assert (status.capacity.slices, status.capacity.cores, status.capacity.memory_mib) == (40, 400, 4 * 81920)
    assert (status.allocated.slices, status.allocated.cores, status.allocated.memory_mib) == (2, 40, 6144)
    assert (status.summary.slices, status.summary.cores, status.summary.memory) == ("2/40", "40/400 %", "6/320 GiB")
    assert (status.conditions[0].status, status.conditions[0].reason) == ("True", "Ready")


def test_nodes_are_counted_in_the_singular_and_the_plural() -> None:
    nodes = [node_totals(_node("a")), node_totals(_node("b"))]
    assert pool_status("a", nodes[:1]).conditions[0].message == "1 node is ready"
    assert pool_status("a", nodes).conditions[0].message == "2 nodes are ready"


def test_a_sick_card_is_no_capacity_and_is_said() -> None:
    status = pool_status("a", [node_totals(_node(sick=1))])
    assert (status.gpus, status.capacity.cores) == (2, 100)
    assert (status.conditions[0].reason, status.conditions[0].message) == ("Degraded", "1 GPU is unhealthy")


def test_an_empty_pool_says_that_no_node_matches_or_that_another_pool_has_it() -> None:
    ready = pool_status("a", [node_totals(_node(pool="other"))]).conditions[0]
    assert (ready.status, ready.reason) == ("False", "NoNodes")
    assert "none matches spec.nodeSelector, or a more specific or older pool has it" in ready.message


def test_nodes_that_are_not_ready_are_named() -> None:
    nodes = [node_totals(_node(f"n{i}", ready="False")) for i in range(7)]
    ready = pool_status("a", nodes).conditions[0]
    assert (ready.status, ready.message) == ("False", "not ready: n0, n1, n2, n3, n4 and 2 more")
    mixed = pool_status("a", [*nodes[:1], node_totals(_node("good", ready=None))]).conditions[0]
    assert (mixed.status, mixed.reason) == ("True", "Degraded")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 5)), max_size=8))
def test_every_card_and_slice_is_counted_in_exactly_one_pool(shapes: list[tuple[str, int, int]]) -> None:
    nodes = [node_totals(_node(f"n{i}", pool=pool, gpus=gpus, held=held)) for i, (pool, gpus, held) in enumerate(shapes)]
    statuses = [pool_status(pool, nodes) for pool in "abc"]
    assert sum(s.gpus for s in statuses) == sum(gpus for _, gpus, _ in shapes)
    assert sum(s.allocated.slices for s in statuses) == sum(held for *_, held in shapes)


def _sliced(**spec: Any) -> VGPUNode:
    node = _node(gpus=3).model_dump(by_alias=True, mode="json")
    cards = [{**gpu, **extra} for gpu, extra in zip(node["spec"]["gpus"], spec.pop("cards"), strict=True)]
    return VGPUNode.model_validate({**node, "spec": {**node["spec"], **spec, "gpus": cards}})


def test_capacity_is_what_may_be_given_out() -> None:
    cards: list[dict[str, Any]] = [{}, {"mode": "Exclusive"}, {"cordoned": True}]
    node = _sliced(memoryOvercommitPercent=150, coresOvercommitPercent=200, cards=cards)
    status = pool_status("a", [node_totals(node)])
    assert (status.capacity.slices, status.capacity.cores, status.capacity.memory_mib) == (21, 500, 4 * 81920)
    assert (status.gpus, status.cordoned, status.conditions[0].reason) == (3, 1, "Ready")


def test_a_gpu_that_the_pool_names_and_no_node_of_it_has_is_reported() -> None:
    nodes = [node_totals(_node())]
    found = {c.type: c for c in pool_status("a", nodes, named=["GPU-0", "GPU-typo"]).conditions}["GPUsFound"]
    assert (found.status, found.reason) == ("False", "UnknownGPU")
    assert "GPU-typo" in found.message and "GPU-0" not in found.message
    assert {c.type: c.status for c in pool_status("a", nodes, named=["GPU-1"]).conditions} == {
        "Ready": "True",
        "GPUsFound": "True",
    }
