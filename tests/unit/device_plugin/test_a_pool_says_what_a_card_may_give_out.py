"""Overcommit and exclusive cards: what is verified, what the kubelet is told, and what survives a restart."""

from dataclasses import replace

import pytest
from agent_under_test import CARD_MIB, CARDS, GPU_A, GPU_B, NODE, card, make_pool, slice_pod
from hypothesis import given
from hypothesis import strategies as st

from mica_api import names
from mica_api.allocation import GPUShare
from mica_api.models import VGPUPool
from mica_api.sharing import Sharing
from mica_device_plugin.devices import device_lists
from mica_device_plugin.files import HostFiles
from mica_device_plugin.loops import pool_choice
from mica_device_plugin.node_cache import load_pool, store_pool
from mica_device_plugin.values import Pin, PinnedContainer, PoolChoice
from mica_device_plugin.verify import Accept, NodeFacts, Reason, Refuse, verify

OVERCOMMITTED = PoolChoice("p", Sharing(10, 150, 200))
EXCLUSIVE = PoolChoice("p", Sharing(10, 150, 200), mode="Exclusive", modes={GPU_B: "Shared"})


def held(*shares: GPUShare) -> list[Pin]:
    return [Pin(f"u{i}", "d", f"p{i}", (PinnedContainer("c", (share,), (f"slot-{i}",)),)) for i, share in enumerate(shares)]


def judge(pool: PoolChoice, share: GPUShare, *others: GPUShare) -> Reason | None:
    outcome = verify(pod=slice_pod(share), node=NodeFacts(NODE, CARDS, pool), held=held(*others))
    return outcome.reason if isinstance(outcome, Refuse) else None


@pytest.mark.parametrize(
    ("pool", "share", "others", "reason"),
    [
        (OVERCOMMITTED, GPUShare(GPU_A, CARD_MIB // 2, 50), [GPUShare(GPU_A, CARD_MIB, 99)], None),
        (OVERCOMMITTED, GPUShare(GPU_A, CARD_MIB // 2 + 1, 0), [GPUShare(GPU_A, CARD_MIB, 0)], Reason.OUT_OF_MEMORY),
        (OVERCOMMITTED, GPUShare(GPU_A, 1, 80), [GPUShare(GPU_A, 1, 60)] * 2, None),
        (OVERCOMMITTED, GPUShare(GPU_A, 1, 81), [GPUShare(GPU_A, 1, 60)] * 2, Reason.OUT_OF_CORES),
        (OVERCOMMITTED, GPUShare(GPU_A, CARD_MIB + 1, 0), [], Reason.OUT_OF_MEMORY),
        (OVERCOMMITTED, GPUShare(GPU_A, 1, 100), [GPUShare(GPU_A, 1, 0)], Reason.NOT_EXCLUSIVE),
        (EXCLUSIVE, GPUShare(GPU_A, 1024, 10), [], None),
        (EXCLUSIVE, GPUShare(GPU_A, 1024, 10), [GPUShare(GPU_A, 1024, 10)], Reason.OUT_OF_SLICES),
        (EXCLUSIVE, GPUShare(GPU_B, 1024, 10), [GPUShare(GPU_B, CARD_MIB, 150)], None),
    ],
)
def test_sums_are_accepted_up_to_the_capacity_and_refused_beyond(pool, share, others, reason):
    assert judge(pool, share, *others) is reason


def test_a_slice_that_is_larger_than_its_card_is_told_so():
    outcome = verify(pod=slice_pod(GPUShare(GPU_A, CARD_MIB + 1, 0)), node=NodeFacts(NODE, CARDS, OVERCOMMITTED), held=())
    assert isinstance(outcome, Refuse) and "larger than the card, which has 81920 MiB" in outcome.message


def test_what_was_given_before_the_pool_shrank_leaves_nothing_and_not_less():
    shrunk = PoolChoice("p", Sharing(10))
    outcome = verify(
        pod=slice_pod(GPUShare(GPU_A, 1, 0)), node=NodeFacts(NODE, CARDS, shrunk), held=held(*[GPUShare(GPU_A, CARD_MIB, 0)] * 2)
    )
    assert isinstance(outcome, Refuse) and "0 of 81920 MiB free" in outcome.message


shares = st.builds(GPUShare, st.sampled_from([GPU_A, GPU_B]), st.integers(1, CARD_MIB), st.integers(0, 100))
pools = st.builds(
    PoolChoice,
    st.just("p"),
    st.builds(Sharing, st.integers(1, 12), st.integers(100, 400), st.integers(100, 400)),
    st.sampled_from(["Shared", "Exclusive"]),
    st.dictionaries(st.sampled_from([GPU_A, GPU_B]), st.sampled_from(["Shared", "Exclusive"])),
)


@given(st.lists(shares, max_size=60), pools)
def test_no_sequence_of_decisions_passes_a_cards_capacity(decisions, pool):
    facts = NodeFacts(NODE, CARDS, pool)
    pins: list[Pin] = []
    for number, share in enumerate(decisions):
        outcome = verify(pod=slice_pod(share, uid=f"u{number}"), node=facts, held=pins)
        if isinstance(outcome, Accept):
            pins.append(Pin(f"u{number}", "d", "p", outcome.containers))
    for gpu in CARDS:
        on_card = [s for pin in pins for c in pin.containers for s in c.shares if s.uuid == gpu.uuid]
        capacity = pool.capacity(gpu)
        assert sum(s.memory_mib for s in on_card) <= capacity.memory_mib
        assert sum(s.cores for s in on_card) <= capacity.cores
        assert len(on_card) <= capacity.slices
        assert len(on_card) <= 1 or all(s.cores < 100 for s in on_card)


@given(pools)
def test_advertised_totals_are_the_sums_of_what_the_cards_may_give_out(pool):
    lists = device_lists((*CARDS, card("GPU-sick", 2, healthy=False)), pool=pool, pins=())
    every = [pool.capacity(gpu) for gpu in CARDS]
    healthy = {resource: sum(d.healthy for d in devices) for resource, devices in lists.items()}
    assert healthy == {
        names.RESOURCE_NUMBER: sum(c.slices for c in every),
        names.RESOURCE_CORES: sum(c.cores for c in every),
        names.RESOURCE_MEMORY: sum(c.memory_mib // 1024 for c in every),
    }


def test_slots_that_containers_hold_outlive_a_smaller_pool():
    pins = [
        replace(pin, containers=(replace(pin.containers[0], slots=(slot,)),))
        for pin, slot in zip(held(GPUShare(GPU_A, 1, 1), GPUShare(GPU_B, 1, 1)), ("slot-17", "slot-1"), strict=True)
    ]
    lists = device_lists(CARDS, pool=PoolChoice("p", Sharing(2)), pins=pins)
    assert [d.id for d in lists[names.RESOURCE_NUMBER]] == ["slot-0", "slot-1", "slot-2", "slot-17"]
    alone = device_lists(CARDS[:1], pool=PoolChoice("p", Sharing(1)), pins=pins)
    assert {d.id for d in alone[names.RESOURCE_NUMBER]} == {"slot-1", "slot-17"}


def test_the_pool_of_a_node_is_remembered_whole(host):
    spec = {
        "maxSlicesPerGPU": 4,
        "memoryOvercommitPercent": 150,
        "coresOvercommitPercent": 200,
        "mode": "Exclusive",
        "gpus": [{"uuid": GPU_B, "mode": "Shared"}],
    }
    pool = pool_choice(VGPUPool.model_validate({"metadata": {"name": "p"}, "spec": spec}))
    path = host / "node.json"
    store_pool(path, pool, HostFiles())
    assert load_pool(path, HostFiles()) == pool == PoolChoice("p", Sharing(4, 150, 200), "Exclusive", {GPU_B: "Shared"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pool": "p", "maxSlicesPerGPU": 1}', "null"])
def test_a_node_file_that_says_nothing_useful_is_ignored(host, text):
    path = host / "node.json"
    path.write_text(text)
    assert load_pool(path, HostFiles()) is None


async def test_kubelet_and_vgpunode_follow_the_pool(agent, kubelet):
    base = make_pool()
    spec = base.spec.model_copy(
        update={"memory_overcommit_percent": 150, "cores_overcommit_percent": 200, "gpus": _overrides(GPU_B)}
    )
    agent.cluster.all_pools = (base.model_copy(update={"spec": spec}),)
    agent.cluster.changed()
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=11, total=11)
    await kubelet.wait_devices(names.RESOURCE_CORES, healthy=300, total=300)
    await kubelet.wait_devices(names.RESOURCE_MEMORY, healthy=200, total=200)
    await agent.eventually(lambda: agent.cluster.object["spec"]["memoryOvercommitPercent"] == 150)
    stored = agent.cluster.object["spec"]
    assert (stored["coresOvercommitPercent"], [gpu["mode"] for gpu in stored["gpus"]]) == (200, ["Shared", "Exclusive"])
    await agent.eventually(lambda: agent.cluster.object["status"]["summary"]["exclusive"] == 1)
    summary = agent.cluster.object["status"]["summary"]
    assert (summary["slices"], summary["cores"], summary["memory"]) == ("0/11", "0/300 %", "0/200 GiB")
    value = agent.agent.registry.get_sample_value
    labels = {"gpu": GPU_A, "model": "NVIDIA H100 80GB HBM3"}
    assert value("mica_node_gpu_memory_capacity_bytes", labels) == 120 * 2**30
    assert value("mica_node_gpu_compute_capacity_ratio", labels) == 2


def _overrides(uuid: str):
    return VGPUPool.model_validate({"metadata": {"name": "p"}, "spec": {"gpus": [{"uuid": uuid, "mode": "Exclusive"}]}}).spec.gpus
