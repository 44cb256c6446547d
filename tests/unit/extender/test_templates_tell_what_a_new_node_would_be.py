"""Autoscalers ask about nodes that do not exist: the answer comes from the node object and the pool it would join."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_api.models.vgpu_pool import VGPUPool
from mica_api.request import ContainerRequest, PodRequest
from mica_extender.placement import Placement, Shape, choose
from mica_extender.placement.kernels import NumpyKernel
from mica_extender.scheduling.templates import Templates
from mica_extender.scheduling.verbs import NodeVerbs
from mica_extender.scheduling.wire import read_nodes

from .conftest import World, pod_body

H100 = {"gpus": 2, "model": "NVIDIA H100 80GB HBM3", "memoryMiB": 81559}


def pool(name: str = "train", **spec: Any) -> dict[str, VGPUPool]:
    body = {
        "apiVersion": "mica.dev/v1alpha1",
        "kind": "VGPUPool",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeSelector": {"matchLabels": {"pool": "train"}}, **spec},
    }
    return {name: VGPUPool.model_validate_json(json.dumps(body))}


def node(labels: dict[str, str] | None = None, **allocatable: Any) -> bytes:
    amounts = {f"mica.dev/vgpu-{key.replace('_', '-')}": value for key, value in allocatable.items()}
    return json.dumps(
        {"metadata": {"name": "new", "labels": {"pool": "train", **(labels or {})}}, "status": {"allocatable": amounts}}
    ).encode()


def test_a_group_without_nodes_is_known_from_the_pools_template() -> None:
    state = Templates(pool(template=H100, maxSlicesPerGPU=4))(node())
    assert state is not None
    assert [(c.model, c.memory_mib, c.used_mib, c.healthy) for c in state.cards] == [(H100["model"], 81559, 0, True)] * 2
    assert state.max_slices == 4
    assert state.ready


def test_a_node_that_is_advertised_in_amounts_is_taken_at_its_word() -> None:
    asked = node({"nvidia.com/gpu.product": "Tesla-T4"}, number="40", cores="400", memory_1Gi=60)
    state = Templates(pool(template=H100))(asked)
    assert state is not None
    assert [(c.model, c.memory_mib) for c in state.cards] == [("Tesla-T4", 15 * 1024)] * 4


def test_the_template_says_to_the_mebibyte_what_the_amounts_round() -> None:
    state = Templates(pool(template=H100))(node(number="20", cores="200", memory_1Gi="159"))
    assert state is not None
    assert {c.memory_mib for c in state.cards} == {81559}


def test_overcommit_and_exclusive_mode_are_those_of_the_pool() -> None:
    shared = Templates(pool(template=H100, memoryOvercommitPercent=150, coresOvercommitPercent=200))(node())
    alone = Templates(pool(template=H100, mode="Exclusive"))(node())
    assert shared is not None
    assert alone is not None
    assert {(c.total_mib, c.core_capacity, c.slots(shared.max_slices)) for c in shared.cards} == {(122338, 200, 10)}
    assert {(c.total_mib, c.core_capacity, c.slots(alone.max_slices)) for c in alone.cards} == {(81559, 100, 1)}


@pytest.mark.parametrize(
    "amounts",
    [
        {"number": "20"},
        {"number": "19", "cores": "200", "memory_1Gi": "159"},
        {"number": "x", "cores": "200", "memory_1Gi": "159"},
    ],
    ids=["some amounts only", "not whole GPUs", "no number"],
)
def test_amounts_that_do_not_add_up_leave_it_to_the_template(amounts: dict[str, str]) -> None:
    state = Templates(pool(template=H100))(node(**amounts))
    assert state is not None
    assert len(state.cards) == 2
    assert Templates(pool())(node(**amounts)) is None


def test_a_node_of_no_pool_or_of_a_pool_that_says_nothing_is_unknown() -> None:
    assert Templates(pool(template=H100))(node({"pool": "other"})) is None
    assert Templates(pool())(node()) is None
    assert Templates({})(node()) is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'{"metadata": 3}', b"[" * 10_000])
def test_what_is_no_node_is_unknown(raw: bytes) -> None:
    assert Templates(pool(template=H100))(raw) is None


@pytest.mark.parametrize(("memory", "fits"), [(81559, True), (81560, False)])
def test_a_pod_fits_on_the_node_to_come_exactly_when_it_would(memory: int, fits: bool) -> None:
    state = Templates(pool(template=H100))(node())
    assert state is not None
    shape = Shape(PodRequest((ContainerRequest("main", number=2, memory_mib=memory),)))
    assert isinstance(choose(shape, state), Placement) == fits


async def test_filter_answers_about_nodes_that_do_not_exist_and_remembers_nothing(world: World) -> None:
    verbs = NodeVerbs(ledger=world.ledger, kernel=NumpyKernel(), template=Templates(pool(template=H100)))
    nowhere = json.dumps({"metadata": {"name": "stranger"}}).encode()
    known = json.dumps({"metadata": {"name": "n1"}}).encode()
    items = b",".join((known, node(), nowhere))
    pod = json.dumps(pod_body("a", containers=(ContainerRequest("main", number=2, memory_mib=81000),))).encode()
    before = (world.ledger.fleet.clock, world.ledger.size())
    question = read_nodes(b'{"Pod":' + pod + b',"Nodes":{"items":[' + items + b"]}}")
    answer = json.loads((await verbs.filter(question)).body)
    assert [item["metadata"]["name"] for item in answer["Nodes"]["items"]] == ["n1", "new"]
    assert answer["Nodes"]["items"][1] == json.loads(node())
    assert answer["FailedAndUnresolvableNodes"] == {"stranger": "node unregistered"}
    assert (world.ledger.fleet.clock, world.ledger.size()) == before
