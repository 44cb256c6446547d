"""The limits of a running container: what the pool and the pod's annotations say, soon after they say it, and never more."""

from dataclasses import replace

import pytest
from agent_under_test import GPU_A, GPU_B, make_pool, slice_pod
from hypothesis import given
from hypothesis import strategies as st

from mica_api import names
from mica_api.allocation import GPUShare
from mica_api.compute import COMPUTE_POLICIES, MAX_WEIGHT, PRIORITIES, Compute, ComputeChoice, ComputeRules
from mica_api.models import VGPUPool
from mica_api.models.vgpu_pool import PoolCompute
from mica_device_plugin.files import HostFiles
from mica_device_plugin.limits import Limits, read_generation, read_owner, render_limits, says_the_same
from mica_device_plugin.loops import pool_choice
from mica_device_plugin.node_cache import load_pool, store_pool
from mica_device_plugin.pins import decode_pin, encode_pin
from mica_device_plugin.values import Pin, PinnedContainer, SliceOwner, slice_key

SHARE = GPUShare(GPU_A, 3072, 20)
HIGH = {"highestPriority": "High", "maxWeight": 1000}


def pool(memory_overcommit: int = 100, **compute: object) -> VGPUPool:
    made = make_pool()
    changes = {"compute": PoolCompute.model_validate(compute), "memory_overcommit_percent": memory_overcommit}
    return made.model_copy(update={"spec": made.spec.model_copy(update=changes)})


def choosing(**choice: str):
    made = slice_pod(SHARE)
    return replace(made, annotations=made.annotations | {f"{names.GROUP}/compute-{key}": value for key, value in choice.items()})


def said(agent, key, card: int = 0) -> dict[str, str]:
    lines = agent.layout.limits_file(key).read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return {word: values[f"gpu.{card}.{word}"] for word in ("policy", "priority", "weight")} | {
        word: values[word] for word in ("generation", "oversubscribe")
    }


async def set_pool(agent, made: VGPUPool) -> None:
    agent.cluster.all_pools = (made,)
    agent.cluster.changed()
    await agent.eventually(lambda: agent.agent.state.pool == pool_choice(made))


async def running(agent, kubelet, pod, made: VGPUPool | None = None) -> str:
    """The key of a started container's slice."""
    if made is not None:
        await set_pool(agent, made)
    agent.cluster.add(pod)
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    return slice_key(given.ids)


async def test_without_a_choice_the_pool_says(agent, kubelet):
    made = pool(policy="Conserving", priority="Low", weight=50)
    key = await running(agent, kubelet, slice_pod(SHARE), made)
    assert said(agent, key) | {"generation": "1"} == {
        "policy": "conserving",
        "priority": "low",
        "weight": "50",
        "generation": "1",
        "oversubscribe": "false",
    }


async def test_a_choice_that_the_pool_allows_is_written(agent, kubelet):
    key = await running(agent, kubelet, choosing(policy="conserving", priority="high", weight="300"), pool(**HIGH))
    found = said(agent, key)
    assert (found["policy"], found["priority"], found["weight"]) == ("conserving", "high", "300")


async def test_a_changed_annotation_changes_a_running_container(agent, kubelet):
    key = await running(agent, kubelet, choosing(priority="normal"), pool(**HIGH))
    before = int(said(agent, key)["generation"])
    agent.cluster.add(choosing(priority="high", weight="7"))
    await agent.eventually(lambda: said(agent, key)["priority"] == "high")
    assert said(agent, key)["weight"] == "7"
    assert int(said(agent, key)["generation"]) == before + 1
    agent.cluster.add(slice_pod(SHARE))
    await agent.eventually(lambda: said(agent, key)["priority"] == "normal")
    assert said(agent, key)["weight"] == "100"


async def test_a_changed_pool_changes_a_running_container(agent, kubelet):
    key = await running(agent, kubelet, slice_pod(SHARE))
    await set_pool(agent, pool(150, policy="Conserving", priority="Low", weight=9))
    await agent.eventually(lambda: said(agent, key)["policy"] == "conserving")
    found = said(agent, key)
    assert (found["priority"], found["weight"], found["oversubscribe"]) == ("low", "9", "true")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"priority": "high"}, "compute-priority is high, the highest is normal; what it allows is in force"),
        ({"weight": "5000"}, "compute-weight is 5000, the greatest is 100; what it allows is in force"),
        ({"priority": "top"}, "must be one of low, normal, high; what was chosen before stays in force"),
    ],
)
async def test_a_tenant_takes_no_more_than_the_pool_allows_by_editing_the_pod(agent, kubelet, edit, words):
    key = await running(agent, kubelet, choosing(priority="low"))
    await agent.eventually(lambda: said(agent, key)["priority"] == "low")
    agent.cluster.add(choosing(**edit))
    await agent.eventually(lambda: any(words in event["message"] for event in agent.cluster.events))
    assert said(agent, key)["priority"] in ("low", "normal")
    assert said(agent, key)["weight"] == "100"
    assert {event["reason"] for event in agent.cluster.events} == {"ComputeNotApplied"}


async def test_a_pool_that_takes_its_permission_back_takes_it_from_who_runs(agent, kubelet):
    key = await running(agent, kubelet, choosing(priority="high"), pool(**HIGH))
    await set_pool(agent, pool())
    await agent.eventually(lambda: said(agent, key)["priority"] == "normal")
    await agent.eventually(lambda: bool(agent.cluster.events))


async def test_limits_that_say_the_same_are_not_written_again(agent, kubelet):
    key = await running(agent, kubelet, choosing(priority="low"))
    before = said(agent, key)["generation"]
    inode = agent.layout.limits_file(key).stat().st_ino
    for _ in range(3):
        await agent.agent.keeper.keep()
    assert said(agent, key)["generation"] == before
    assert agent.layout.limits_file(key).stat().st_ino == inode


async def test_a_choice_outlives_the_agent_and_a_silent_api_server(agent, kubelet):
    key = await running(agent, kubelet, choosing(priority="low"))
    (uid,) = agent.agent.state.pins
    assert agent.agent.store.load().pins[uid].compute == ComputeChoice(priority="low")
    agent.cluster.delete(choosing())
    await agent.agent.keeper.keep()
    assert said(agent, key)["priority"] == "low"


async def test_the_vgpunode_shows_what_is_in_force(agent, kubelet):
    await running(agent, kubelet, choosing(priority="high", policy="conserving"), pool(**HIGH))
    await agent.eventually(lambda: bool((agent.cluster.object or {}).get("status", {}).get("slices")))
    assert agent.cluster.object["status"]["slices"][0]["compute"] == {"policy": "Conserving", "priority": "High", "weight": 100}


def test_a_pool_is_remembered_with_its_compute(host):
    made = pool_choice(pool(150, policy="Conserving", priority="Low", weight=9, highestPriority="High", maxWeight=77))
    assert made.compute == ComputeRules(Compute("conserving", "low", 9), "high", 77)
    store_pool(host / "node.json", made, HostFiles())
    assert load_pool(host / "node.json", HostFiles()) == made


def test_a_pin_of_an_earlier_version_chooses_nothing():
    pin = Pin("u", "n", "p", (PinnedContainer("c", (SHARE,), ("slot-0",)),))
    text = encode_pin(pin).replace(b',\n "compute": {}', b"")
    assert b"compute" not in text and decode_pin(text) == pin


computes = st.builds(Compute, st.sampled_from(COMPUTE_POLICIES), st.sampled_from(PRIORITIES), st.integers(1, MAX_WEIGHT))
limits = st.builds(
    Limits,
    st.builds(SliceOwner, st.just("uid"), st.just("c")),
    st.lists(
        st.builds(GPUShare, st.sampled_from([GPU_A, GPU_B]), st.integers(1, 2**20), st.integers(0, 100)), min_size=1, max_size=2
    ).map(tuple),
    computes,
    st.booleans(),
)


@given(limits, limits, st.integers(1, 2**40), st.integers(1, 2**40))
def test_a_file_says_the_same_whatever_its_generation_and_nothing_else(one, other, generation, later):
    text = render_limits(one, generation=generation)
    assert read_generation(text) == generation
    assert read_owner(text) == one.owner
    assert says_the_same(text, replace(one))
    assert says_the_same(render_limits(other, generation=later), one) == (one == other)
