"""What explain says of the whole cluster: for every kind of change the node that needs the smallest, told or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_api import names
from mica_api.request import ContainerRequest
from mica_extender.explain import explain
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
