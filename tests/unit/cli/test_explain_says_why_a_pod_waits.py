"""`mica explain`: what is read from where, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from mica_api import names
from mica_cli.explain import UnreadablePod, explain_path, notes, parse_pod, reached_us, told
from mica_cli.kubectl import ClusterError, Result, read_pod, read_through_proxy

LIMITS = {names.RESOURCE_NUMBER: "1", names.RESOURCE_CORES: "20"}


def pod(
    *,
    limits: dict[str, str] | None = None,
    admitted: bool = True,
    said: str = "",
    **spec: Any,
) -> dict[str, Any]:
    labels = {names.LABEL_SLICE: names.LABEL_SLICE_VALUE} if admitted else {}
    annotations = {names.ANNOTATION_REQUEST: "{}"} if admitted else {}
    container = {"name": "main", "resources": {"limits": LIMITS if limits is None else limits}}
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    return {
        "metadata": {"name": "big", "namespace": "team", "labels": labels, "annotations": annotations},
        "spec": {"schedulerName": names.SCHEDULER_NAME, "containers": [container], **spec},
        "status": {"phase": "Pending", "conditions": [condition] if said else []},
    }


EXPLANATION = {
    "request": [{"container": "main", "number": 1, "cores": 20, "memoryMiB": 8192}],
    "decision": None,
    "fitting": 1,
    "refusing": 2,
    "reasons": [
        {"reason": "2/2 CardInsufficientMemory", "code": "CardInsufficientMemory", "permanent": False, "nodes": 1},
        {"reason": "1/1 CardTypeMismatch", "code": "CardTypeMismatch", "permanent": True, "nodes": 1},
    ],
    "changes": [{"node": "n2", "kind": "memory", "text": "6144 MiB less memory per GPU", "by": 6144}],
    "nodes": {
        "n1": {"fits": True, "score": 71},
        "n2": {
            "fits": False,
            "reason": "2/2 CardInsufficientMemory",
            "changes": [{"kind": "number", "text": "1 GPU fewer"}],
            "cards": [
                {
                    "uuid": "GPU-a",
                    "index": 0,
                    "model": "A100",
                    "capacity": {"memoryMiB": 81920, "cores": 100, "slices": 10},
                    "free": {"memoryMiB": 2048, "cores": 50, "slices": 3},
                    "containers": [
                        {
                            "container": "main",
                            "needs": {"memoryMiB": 8192, "cores": 20, "slices": 1},
                            "code": "CardInsufficientMemory",
                        }
                    ],
                }
            ],
        },
    },
    "omitted": 1,
}


def test_a_waiting_pod_is_told_card_by_card_with_the_nearest_way_in() -> None:
    assert told(pod(), EXPLANATION) == [
        "Pod team/big: waiting for a node (Pending)",
        "  container main asks for 1 GPU: 20 % of the compute and 8192 MiB of memory of each",
        "Fits on 1 of 3 GPU nodes.",
        "  1 node: 2/2 CardInsufficientMemory",
        "  1 node: 1/1 CardTypeMismatch (however free its cards are)",
        "It would fit with any one of these changes:",
        "  6144 MiB less memory per GPU, on node n2",
        "n1: fits, score 71",
        "n2: 2/2 CardInsufficientMemory",
        "  GPU 0 A100 GPU-a: free 2048/81920 MiB, 50/100 %, 3/10 slices",
        "    main: CardInsufficientMemory (needs 8192 MiB, 20 %)",
        "    would fit with 1 GPU fewer",
        "1 more node; see them with --nodes",
    ]


def test_nodes_that_the_pod_itself_excludes_are_said_to_be_wherever_they_are_named() -> None:
    why = "nodeSelector disk=ssd does not match the node's labels, which have no disk"
    lines = told(pod(), EXPLANATION, {"n1": why, "n2": why, "n9": why})
    assert f"n1: fits, score 71 (but kube-scheduler excludes it: {why})" in lines
    assert f"n2: 2/2 CardInsufficientMemory (but kube-scheduler excludes it: {why})" in lines
    assert f"  6144 MiB less memory per GPU, on node n2 (but kube-scheduler excludes it: {why})" in lines
    assert "  Excluded by the pod's own selector, affinity or tolerations, whatever is free there: 3 nodes." in lines
    assert any("may not list nodes" in line for line in told(pod(), EXPLANATION, None))


def test_nodes_that_fit_and_are_ruled_out_by_kube_scheduler_are_said_to_be() -> None:
    words = "kube-scheduler refuses it for other reasons than GPUs"
    said = "0/3 nodes are available: 1 CardInsufficientMemory, 2 node(s) didn't match Pod's node affinity/selector."
    assert any(words in line for line in told(pod(said=said), EXPLANATION))
    assert not any(words in line for line in told(pod(said=said), {**EXPLANATION, "fitting": 0}))
    assert not any(words in line for line in told(pod(said=said, nodeName="n1"), EXPLANATION))


def test_a_bound_pod_is_told_where_it_is_and_by_which_decision() -> None:
    bound = {**EXPLANATION, "decision": [{"container": 0, "uuid": "GPU-a", "memoryMiB": 8192, "cores": 0}]}
    lines = told(pod(nodeName="n1", said="stale"), bound)
    assert lines[0] == "Pod team/big: on node n1 (Pending)"
    assert "  container 0 holds 8192 MiB and no cap of GPU-a (annotation alloc.mica.dev/c0)" in lines
    assert not any("stale" in line for line in lines)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pod(limits={"cpu": "1"}, admitted=False), "asks for no GPU slice"),
        (pod(limits={"nvidia.com/gpu": "1"}, admitted=False), "asks for nvidia.com/gpu but has no annotation mica.dev/request"),
        (pod(admitted=False, schedulerName="kueue"), "scheduler 'kueue' places the pod"),
        (pod(schedulingGates=[{"name": "team/wait"}]), "held back by scheduling gates: team/wait"),
        (pod(said="0/3 nodes are available: 3 Insufficient mica.dev/vgpu-memory-1Gi."), "own sum over a node"),
        (pod(said="0/3 nodes are available: 3 node(s) had untolerated taint"), "Unschedulable: 0/3 nodes are available"),
    ],
)
def test_what_never_reached_the_extender_is_told_from_the_pod(body: dict[str, Any], words: str) -> None:
    assert any(words in note for note in notes(body))


def test_a_pod_that_simply_waits_needs_no_note() -> None:
    assert notes(pod()) == []
    assert reached_us(pod())
    assert not reached_us(pod(admitted=False))


def test_the_explanation_is_asked_for_through_the_api_servers_proxy() -> None:
    path = explain_path(pod(), system_namespace="gpu", nodes=3)
    assert path == "/api/v1/namespaces/gpu/services/mica-explain/proxy/explain/team/big?nodes=3"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metadata": {"name": 1}}'])
def test_what_is_no_pod_is_refused(text: str) -> None:
    with pytest.raises(UnreadablePod):
        parse_pod(text)


def test_a_pod_is_read_by_kubectl_in_the_given_or_its_current_namespace() -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> Result:
        asked.append(command)
        return Result(0, json.dumps(pod()), "")

    read_pod("big", None, run=run)
    read_pod("big", "team", run=run)
    assert asked == [
        ["kubectl", "get", "pod", "big", "-o", "json"],
        ["kubectl", "get", "pod", "big", "-n", "team", "-o", "json"],
    ]


PATH = "/api/v1/namespaces/gpu/services/mica-explain/proxy/explain/team/big"


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ('Error from server (Forbidden): services "mica-explain" is forbidden', "ask for the Role mica-explain"),
        ('Error from server (NotFound): services "mica-explain" not found', "use --system-namespace"),
        ("Error from server (ServiceUnavailable): no endpoints available", "no replica of the scheduler"),
        ("refused", "KUBECONFIG"),
    ],
)
def test_what_keeps_the_explanation_away_is_said(errors: str, words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        read_through_proxy(PATH, run=lambda _: Result(1, "", errors))


def test_a_pod_that_does_not_exist_is_said_to_be_missing() -> None:
    with pytest.raises(ClusterError, match="there is no pod big in namespace team"):
        read_pod("big", "team", run=lambda _: Result(1, "", 'Error from server (NotFound): pods "big" not found'))


def test_what_the_pod_chooses_of_the_compute_is_told() -> None:
    lines = told(pod(), EXPLANATION | {"compute": {"priority": "high", "weight": 300}})
    assert "  of the compute it chooses priority high, weight 300" in lines
    assert not any("chooses" in line for line in told(pod(), EXPLANATION))
