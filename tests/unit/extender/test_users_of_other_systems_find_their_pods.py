"""What users of HAMi, Volcano vGPU and Flex:ai read back stands in the same Binding as the decision, and means nothing to us."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from mica_api import names
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord

from .conftest import PodBody, World, pod_body

ASK = BindQuestion("default", "a", "uid-a", "n1")


class Api:
    """Stores every Binding."""

    def __init__(self) -> None:
        self.bindings: list[dict[str, str]] = []

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        self.bindings.append(dict(annotations))

    async def read(self, pod: PodRecord) -> PodRecord:
        return pod


async def bound(world: World, body: PodBody) -> dict[str, str]:
    api = Api()
    world.see_pod(body)
    binder = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading(), wall=lambda: 1_700_000_000.9)
    assert await binder.bind(ASK) == ""
    (annotations,) = api.bindings
    return annotations


def written_as(limits: dict[str, str], *, init_containers: int = 0) -> PodBody:
    body = pod_body("a", annotations={names.ANNOTATION_ORIGINAL: json.dumps({"main": limits})})
    body["spec"]["initContainers"] = [{"name": f"i{index}"} for index in range(init_containers)]
    return body


async def test_a_hami_pod_finds_node_time_and_the_devices_of_the_decision(world: World) -> None:
    annotations = await bound(world, written_as({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "3072"}, init_containers=1))
    (gpu,) = json.loads(annotations["alloc.mica.dev/c0"])["gpus"]
    assert annotations["hami.io/vgpu-node"] == "n1"
    assert annotations["hami.io/vgpu-time"] == annotations["hami.io/bind-time"] == "1700000000"
    assert annotations["hami.io/vgpu-devices-allocated"] == f";{gpu['uuid']},NVIDIA,{gpu['mem']},{gpu['cores']}:;"


@pytest.mark.parametrize(
    ("limits", "prefix"),
    [({"volcano.sh/vgpu-number": "1"}, "volcano.sh/"), ({"huawei.com/vgpu-number": "1"}, "huawei.com/")],
)
async def test_other_systems_pods_find_theirs_and_nothing_else(world: World, limits: dict[str, str], prefix: str) -> None:
    annotations = await bound(world, written_as(limits))
    foreign = {key for key in annotations if not key.startswith(names.ALLOCATION_PREFIX)}
    assert f"{prefix}vgpu-node" in foreign
    assert all(key.startswith(prefix) for key in foreign)


async def test_a_pod_in_our_own_words_carries_our_decision_alone(world: World) -> None:
    assert set(await bound(world, pod_body("a"))) == {"alloc.mica.dev/c0"}


async def test_nothing_false_is_written(world: World) -> None:
    annotations = await bound(world, written_as({"nvidia.com/gpu": "1"}))
    assert not [key for key in annotations if key.endswith(("bind-phase", "devices-to-allocate"))]


async def test_forged_ones_never_count(world: World) -> None:
    forged = {
        "hami.io/vgpu-node": "n1",
        "hami.io/vgpu-devices-allocated": "GPU-n1-0,NVIDIA,80000,100:;",
        "volcano.sh/vgpu-ids-new": "GPU-n1-0,NVIDIA,80000,100:",
        "hami.io/bind-phase": "success",
    }
    record = world.see_pod(pod_body("a", node="n1", annotations=forged))
    assert record.shares is None
    assert world.used("n1") == [(0, 0, 0), (0, 0, 0)]


async def test_what_a_pods_author_wrote_in_their_place_is_overwritten_by_the_truth(world: World) -> None:
    body = written_as({"nvidia.com/gpu": "1"})
    body["metadata"]["annotations"]["hami.io/vgpu-node"] = "elsewhere"
    assert (await bound(world, body))["hami.io/vgpu-node"] == "n1"
