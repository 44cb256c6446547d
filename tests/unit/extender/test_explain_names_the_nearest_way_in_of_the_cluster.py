"""What explain says of the whole cluster: for every kind of change the node that needs the smallest, told or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_api import names
from mica_api.request import ContainerRequest
from mica_extender.effort import Effort
from mica_extender.explain import explain
from mica_extender.placement.kernels import NumpyKernel
from mica_extender.scheduling.verdicts import Judge
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import decode_node, decode_pod
from mica_runtime.reflector import Change

from .conftest import node_body, pod_body


def cluster() -> Ledger:
    ledger = Ledger()
    for name in ("n1", "n2"):
        held = [{"podUID": f"u-{name}", "gpus": [{"uuid": f"GPU-{name}-{i}", "memoryMiB": 1024, "cores": 0} for i in range(2)]}]
        ledger.apply_node(Change(name, None, decode_node(json.dumps(node_body(name, gpus=2, slices=held)).encode())))
    return ledger


async def changes_of(annotations: dict[str, str]) -> list[tuple[str, str]]:
    body = pod_body(containers=[ContainerRequest("main", number=1, cores=10, memory_mib=1024)], annotations=annotations)
    found: dict[str, Any] = await explain(decode_pod(json.dumps(body).encode()), cluster(), detailed=0)
    assert found["fitting"] == 0
    return [(change["kind"], change["node"]) for change in found["changes"]]


@pytest.mark.parametrize(
    ("annotations", "changes"),
    [
        ({names.ANNOTATION_USE_UUID: "GPU-elsewhere"}, [("uuid", "n1")]),
        ({names.ANNOTATION_USE_MODEL: "no such model"}, [("model", "n1")]),
        ({names.ANNOTATION_GPU_POLICY: "mutex"}, [("policy", "n1"), ("freeCards", "n1")]),
    ],
)
async def test_a_demand_that_no_card_of_the_cluster_meets_is_named(
    annotations: dict[str, str], changes: list[tuple[str, str]]
) -> None:
    assert await changes_of(annotations) == changes


async def test_a_node_has_the_score_that_prioritize_gives_it_by_what_the_pods_so_far_have_taught() -> None:
    ledger = Ledger()
    half = [{"podUID": "u", "gpus": [{"uuid": "GPU-n2-0", "memoryMiB": 40960, "cores": 0}]}]
    for name, slices in (("n1", []), ("n2", half)):
        ledger.apply_node(Change(name, None, decode_node(json.dumps(node_body(name, gpus=2, slices=slices)).encode())))
    body = pod_body(containers=[ContainerRequest("main", number=1, cores=0, memory_mib=30720)])
    pod = decode_pod(json.dumps(body).encode())
    assert pod.shape is not None
    for _ in range(100):
        ledger.learned.observe(pod.shape)
    untaught = {name: node["score"] for name, node in (await explain(pod, ledger))["nodes"].items()}
    await ledger.learned.refresh()
    found = {name: node["score"] for name, node in (await explain(pod, ledger))["nodes"].items()}
    judge = Judge(ledger, NumpyKernel())
    scores = await judge.scores(pod.shape, ledger.fleet.rows(["n1", "n2"]), Effort())
    assert [found["n1"], found["n2"]] == scores.tolist()
    assert found != untaught
