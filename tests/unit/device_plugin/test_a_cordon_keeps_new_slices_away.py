from agent_under_test import CARDS, GPU_A, GPU_B, slice_pod

from mica_api.allocation import GPUShare
from mica_device_plugin.cluster import NodeView, decode_node
from mica_device_plugin.cordon import read_cordon
from mica_device_plugin.node_object import Situation, build_spec, conditions
from mica_device_plugin.values import Inventory

MICA, HAMI = "mica.dev/cordoned-gpus", "hami.io/device-cordon"


def situation(*cordoned: str, cards=CARDS) -> Situation:
    return Situation(Inventory("580", True, cards), None, (), (), "", True, cordoned=frozenset(cordoned))


def applied(found: Situation):
    return next(c for c in conditions(found) if c.type == "CordonApplied")


def test_either_spelling_cordons_and_both_together_do():
    assert read_cordon({MICA: f" {GPU_A} ,"}) == {GPU_A}
    assert read_cordon({HAMI: f"{GPU_B},{GPU_A}"}) == {GPU_A, GPU_B}
    assert read_cordon({MICA: GPU_A, HAMI: GPU_B, "other": "x"}) == {GPU_A, GPU_B}
    assert read_cordon({MICA: ""}) == frozenset()


def test_the_named_cards_are_marked_and_no_others():
    assert [(g.uuid, g.cordoned) for g in build_spec(situation(GPU_B)).gpus] == [(GPU_A, False), (GPU_B, True)]


def test_a_name_that_no_card_has_is_reported_and_the_node_stays_ready():
    found = situation(GPU_B, "GPU-typo")
    assert (applied(found).status, applied(found).reason) == ("False", "UnknownGPU")
    assert "GPU-typo" in applied(found).message and GPU_B not in applied(found).message
    assert applied(situation(GPU_B)).status == "True"
    assert "not on this node" not in next(c for c in conditions(found) if c.type == "Ready").message


def test_before_any_card_was_seen_no_name_is_called_wrong():
    assert applied(situation(GPU_A, cards=())).status == "True"


def test_only_the_annotations_that_matter_are_kept_of_a_node():
    raw = b'{"metadata":{"name":"n","uid":"u","annotations":{"a":"b","%s":"GPU-1"}},"status":{"allocatable":{"cpu":"3920m"}}}'
    assert decode_node(raw % MICA.encode()) == NodeView("u", {}, {MICA: "GPU-1"}, 3920)
    assert decode_node(b'{"metadata":{"name":"n","uid":"u"}}').cpu_milli is None


async def test_a_pod_that_was_decided_before_the_cordon_starts_and_the_object_says_what_is_cordoned(agent, kubelet):
    agent.cluster.own = NodeView("node-uid", {}, {HAMI: GPU_A})
    agent.cluster.changed()
    await agent.eventually(lambda: (agent.cluster.object or {"spec": {"gpus": [{}]}})["spec"]["gpus"][0].get("cordoned", False))
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    await kubelet.pre_start(await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))
    await agent.eventually(lambda: agent.cluster.object["status"]["summary"]["slices"] == "1/20")
    assert agent.cluster.object["status"]["summary"]["cordoned"] == 1
    agent.cluster.own = NodeView("node-uid", {})
    agent.cluster.changed()
    await agent.eventually(lambda: not agent.cluster.object["spec"]["gpus"][0]["cordoned"])
