"""Preemption by the real kube-scheduler: a pod with a slice displaces pods without one only where its cards are free.

What kube-scheduler's own filters see (CPU) runs short here, so that it chooses victims; of cards it knows what preempt says.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest

from mica_box.errors import BoxError
from mica_box.kwok import node_name

from .conftest import Installation, Pods, eventually

SLICE: Final = {"mica.dev/vgpu-number": 1, "mica.dev/vgpu-cores": 20, "mica.dev/vgpu-memory-1Gi": 3}
WHOLE_NODE: Final = {"mica.dev/vgpu-number": 2}
FULL, OTHER = node_name(0), node_name(1)
ORDINARY, ORDINARY_CPU = 4, 15
"""Four of them leave 4 of a fake node's 64 CPUs; a pod that asks for 20 needs two of them gone."""
URGENT_CPU: Final = 20
REFUSED: Final = "no candidate node for preemption"
"""What kube-scheduler writes once it had candidates and the extender has struck the last of them."""


@dataclass(frozen=True, slots=True)
class Priorities:
    """Names of the classes of one test."""

    lowest: str
    low: str
    high: str


def _class(name: str, value: int) -> dict[str, Any]:
    return {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}


@pytest.fixture
def priorities(pods: Pods) -> Iterator[Priorities]:
    """Three classes that the API server's admission knows."""
    cluster = pods.cluster
    names = [f"it-{word}-{uuid.uuid4().hex[:8]}" for word in ("lowest", "low", "high")]
    cluster.apply(*(_class(name, value) for name, value in zip(names, (-200, -100, 1000), strict=True)))

    def known() -> bool:
        try:
            for name in names:
                body = json.dumps(pods.body("unused", {"cpu": "1m"}, priorityClassName=name))
                cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=body)
        except BoxError as error:
            assert "no PriorityClass" in str(error), error
            return False
        return True

    try:
        eventually(known, what="admission knows the classes")
        yield Priorities(*names)
    finally:
        cluster.kubectl("delete", "priorityclass", *names)


def _on(*nodes: str) -> dict[str, Any]:
    """Affinity to these nodes and no others."""
    within = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}
    terms = [{"matchExpressions": [within]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _fill(pods: Pods, node: str, priority: str) -> dict[str, str]:
    """Take the node's CPU with pods that ask for no slice; their uids by name."""
    names = [f"{node}-ordinary-{index}" for index in range(ORDINARY)]
    limits = {"cpu": ORDINARY_CPU}
    pods.create(*(pods.body(name, limits, affinity=_on(node), priorityClassName=priority) for name in names))
    return {name: pods.bound(name)["metadata"]["uid"] for name in names}


def _urgent(pods: Pods, priority: str, slice_: Mapping[str, Any], *nodes: str) -> None:
    limits = {**slice_, "cpu": URGENT_CPU}
    pods.create(pods.body("urgent", limits, affinity=_on(*nodes), priorityClassName=priority))


def _take_the_cards(pods: Pods, node: str, priority: str) -> None:
    """A pod that nobody here outranks holds every card of the node and next to none of its CPU."""
    pods.create(pods.body("holder", {**WHOLE_NODE, "cpu": 1}, affinity=_on(node), priorityClassName=priority))
    pods.bound("holder")


def _left(pods: Pods, victims: Mapping[str, str]) -> set[str]:
    """Which of them are still there, as the same pods and with no end set."""
    found = {
        pod["metadata"]["uid"]
        for pod in pods.cluster.get("pods", "-n", pods.namespace)["items"]
        if "deletionTimestamp" not in pod["metadata"]
    }
    return {name for name, uid in victims.items() if uid in found}


def _metric(mica: Installation, name: str) -> int:
    """Value of a metric of the extender that has no labels."""
    [line] = [row for row in mica.admin("/metrics").splitlines() if row.startswith(f"mica_extender_{name} ")]
    return int(float(line.split()[1]))


def _preempts(mica: Installation) -> int:
    """How often preempt was answered."""
    return _metric(mica, "preempt_seconds_count")


def _refused_after(mica: Installation, pods: Pods, calls: int) -> None:
    """Wait until preempt was answered after ``calls`` times and kube-scheduler has written that nobody is evicted.

    An attempt that evicts writes another message, and the node with it.
    """
    eventually(lambda: _preempts(mica) > calls, what="kube-scheduler asks about victims")
    pods.pending_because("urgent", REFUSED)
    assert "nominatedNodeName" not in pods.get("urgent")["status"]


def test_a_pod_with_a_slice_displaces_as_many_ordinary_pods_as_it_needs_cpu(
    mica: Installation, pods: Pods, priorities: Priorities
) -> None:
    victims = _fill(pods, FULL, priorities.low)
    calls = _preempts(mica)
    _urgent(pods, priorities.high, SLICE, FULL)
    pod = pods.bound("urgent")
    assert [(share["mem"], share["cores"]) for share in pods.shares(pod)] == [(3072, 20)]
    assert _preempts(mica) > calls
    assert len(_left(pods, victims)) == ORDINARY - 2


def _release_the_cards(mica: Installation, pods: Pods) -> None:
    """End the pod that holds them, and another one once the extender knows.

    When kube-scheduler hears of the first end before the extender does, preempt refuses once more; a pod that in-tree filters
    refuse as well is tried again at the end of any pod, not at a poke.
    """
    held = _metric(mica, "ledger_pods")
    pods.delete("holder")

    def known() -> bool:
        return _metric(mica, "ledger_pods") < held or "nodeName" in pods.get("urgent")["spec"]

    eventually(known, what="the extender knows that the cards are free")
    pods.delete("bystander")


def test_nobody_is_evicted_for_cards_that_a_pod_of_equal_priority_holds_until_it_is_gone(
    mica: Installation, pods: Pods, priorities: Priorities
) -> None:
    pods.create(pods.body("bystander", {"cpu": "1m"}, affinity=_on(OTHER)))
    pods.bound("bystander")
    _take_the_cards(pods, FULL, priorities.high)
    victims = _fill(pods, FULL, priorities.low)
    calls = _preempts(mica)
    _urgent(pods, priorities.high, SLICE, FULL)
    _refused_after(mica, pods, calls)
    assert _left(pods, victims) == set(victims)
    _release_the_cards(mica, pods)
    assert len(pods.shares(pods.bound("urgent"))) == 1
    assert len(_left(pods, victims)) == ORDINARY - 2


def test_nobody_is_evicted_for_a_slice_larger_than_any_card_however_often_it_is_tried(
    mica: Installation, pods: Pods, priorities: Priorities
) -> None:
    victims = _fill(pods, FULL, priorities.low)
    calls = _preempts(mica)
    _urgent(pods, priorities.high, {"mica.dev/vgpu-number": 1, "mica.dev/vgpu-memory-1Gi": 81}, FULL)
    _refused_after(mica, pods, calls)
    assert _left(pods, victims) == set(victims)
    # One that goes by itself frees too little CPU: kube-scheduler tries again and would have to evict another.
    gone, calls = min(victims), _preempts(mica)
    pods.delete(gone)
    _refused_after(mica, pods, calls)
    assert _left(pods, victims) == set(victims) - {gone}


def test_of_two_nodes_the_one_with_free_cards_gives_way_though_its_pods_rank_higher(
    mica: Installation, pods: Pods, priorities: Priorities
) -> None:
    """Left to itself kube-scheduler evicts where the victims' priority is lowest."""
    _take_the_cards(pods, FULL, priorities.high)
    spared = _fill(pods, FULL, priorities.lowest)
    victims = _fill(pods, OTHER, priorities.low)
    _urgent(pods, priorities.high, SLICE, FULL, OTHER)
    pod = pods.bound("urgent")
    assert pod["spec"]["nodeName"] == OTHER
    assert len(pods.shares(pod)) == 1
    assert _left(pods, spared) == set(spared)
    assert len(_left(pods, victims)) == ORDINARY - 2
