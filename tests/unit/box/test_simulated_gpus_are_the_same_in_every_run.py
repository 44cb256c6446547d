from __future__ import annotations

from mica_api.models.vgpu_node import VGPUNode
from mica_box.kwok import node_objects
from mica_box.plan import Plan
from mica_box.simulated import advertised, cards, default_sim_config, sim_config, vgpu_node


def parsed(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_the_default_node_has_two_cards_of_80_gib() -> None:
    said = parsed(default_sim_config())
    assert said["version"] == "1"
    assert said["gpus"] == "2"
    assert {said[f"gpu.{i}.memory"] for i in (0, 1)} == {str(80 << 30)}
    assert said["gpu.0.uuid"] != said["gpu.1.uuid"]
    assert default_sim_config().startswith("version=1\n"), "the version comes first"


def test_cards_keep_their_identity_and_differ_between_nodes() -> None:
    assert cards("a", 2) == cards("a", 2)
    assert not {card.uuid for card in cards("a", 8)} & {card.uuid for card in cards("b", 8)}
    assert len({card.pci_bus_id for card in cards("a", 8)}) == 8


def test_links_are_written_once_per_pair() -> None:
    assert "link.0.1=SYS\n" in sim_config(cards("a", 2), {(0, 1): "SYS"})


def test_a_fake_nodes_inventory_is_a_valid_vgpunode() -> None:
    body = vgpu_node("kwok-0", cards("kwok-0", 4), pool="default", max_slices=10)
    node = VGPUNode.model_validate(body)
    assert [gpu.index for gpu in node.spec.gpus] == [0, 1, 2, 3]
    assert node.spec.driver.simulated


def test_allocatable_is_slots_percents_and_whole_gib() -> None:
    assert advertised(cards("n", 4, memory_mib=40 * 1024 + 512), max_slices=10) == {
        "mica.dev/vgpu-number": "40",
        "mica.dev/vgpu-cores": "400",
        "mica.dev/vgpu-memory-1Gi": "160",
    }


def test_fake_nodes_carry_the_mark_that_kwok_looks_for(full_plan: Plan) -> None:
    objects = node_objects(full_plan, 2, [cards("kwok-0", 1), []], max_slices=10)
    assert [o["metadata"]["name"] for o in objects] == ["kwok-0", "kwok-1"]
    assert all(o["metadata"]["annotations"]["kwok.x-k8s.io/node"] == "fake" for o in objects)
    assert objects[0]["status"]["allocatable"]["mica.dev/vgpu-number"] == "10"
    assert "mica.dev/vgpu-number" not in objects[1]["status"]["allocatable"]
