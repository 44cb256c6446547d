"""The cluster and the pods that throughput is measured on: everything fits, and every contender gets the same."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks.scheduler import load
from benchmarks.scheduler.load import Scale
from mica_api import names
from mica_api.allocation import decode_pod_allocation
from mica_api.request import read_request

SCALE = Scale(nodes=10, running=50, waiting=30)
CARD_MIB = 81920


def decided(scale: Scale) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Shares of running pods by node and card."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for index, (_, told) in enumerate(load.running(scale)):
        binding = load.bind(told, f"uid-{index}")
        [decision] = decode_pod_allocation(binding["metadata"]["annotations"], 1) or ()
        assert (decision.pod_uid, decision.node) == (f"uid-{index}", binding["target"]["name"])
        for share in decision.shares:
            found[decision.node, share.uuid].append((share.memory_mib, share.cores))
    return found


def test_running_pods_stand_on_cards_that_exist_and_never_on_one_twice() -> None:
    cards = {
        (name, gpu["uuid"]) for name in map(load.node_name, range(SCALE.nodes)) for gpu in load.inventory(name)["spec"]["gpus"]
    }
    shares = decided(SCALE)
    assert shares.keys() <= cards
    assert len(shares) == SCALE.running
    assert all(len(taken) == 1 for taken in shares.values())


def test_a_running_pod_asks_for_what_its_decision_gives() -> None:
    for body, told in load.running(SCALE):
        limits = body["spec"]["containers"][0]["resources"]["limits"]
        [asked] = read_request([("main", limits)], body["metadata"]["annotations"]).containers
        [decision] = decode_pod_allocation(load.bind(told, "uid")["metadata"]["annotations"], 1) or ()
        assert [(s.memory_mib, s.cores) for s in decision.shares] == [(asked.memory_on(CARD_MIB), asked.cores)] * asked.number


def test_waiting_pods_fit_beside_the_running_ones_at_full_size() -> None:
    scale = Scale()
    free = 8 * scale.nodes - sum(asked.cores / 100 for asked in (t["asked"] for _, t in load.running(scale)))
    wanted = sum(load.WAITING[i % len(load.WAITING)].number for i in range(scale.waiting))
    assert wanted <= free * 0.9


def test_every_contender_gets_the_same_pods_and_no_word_of_a_scheduler() -> None:
    first, second = list(load.waiting(SCALE)), list(load.waiting(SCALE))
    assert first == second
    assert len({body["metadata"]["name"] for body in first}) == SCALE.waiting
    for body in first:
        assert "schedulerName" not in body["spec"]
        assert "annotations" not in body["metadata"]
        assert names.LABEL_SLICE not in body["metadata"]["labels"]


def test_the_burst_fills_its_node_exactly_and_only_that_node_may_run_it() -> None:
    bodies: list[dict[str, Any]] = list(load.burst())
    gpus = load.inventory(load.BURST_NODE)["spec"]["gpus"]
    assert len(bodies) * load.IN_BURST.cores == len(gpus) * 100
    assert len(bodies) * load.IN_BURST.gib * 1024 == sum(gpu["memoryMiB"] for gpu in gpus)
    node = load.node(load.BURST_NODE, burst=True)
    for body in bodies:
        assert body["spec"]["nodeSelector"].items() <= node["metadata"]["labels"].items()
        assert node["spec"]["taints"] == body["spec"]["tolerations"]
    assert not any(body["spec"].get("tolerations") for body in load.waiting(SCALE))
