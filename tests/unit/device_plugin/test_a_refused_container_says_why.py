"""What people see of a refusal, what makes it go away, and what is not held against a pod."""

import asyncio
from dataclasses import replace

import grpc
import pytest
from agent_under_test import CARD_MIB, GPU_A, GPU_B, card, slice_pod

from mica_api.allocation import GPUShare
from mica_device_plugin.values import slice_key


async def refused(kubelet, assignment) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.pre_start(assignment)
    return caught.value


async def test_the_words_reach_kubelet_event_and_vgpunode(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20), decided_on="elsewhere"))
    error = await refused(kubelet, await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "WrongNode: the decision is for node 'elsewhere', this is 'node-1'"
    await agent.eventually(lambda: bool(agent.cluster.events) and "refusals" in agent.cluster.object.get("status", {}))
    (refusal,) = agent.cluster.object["status"]["refusals"]
    assert (refusal["podUID"], refusal["reason"]) == ("uid-1", "WrongNode")
    event = agent.cluster.events[0]
    assert event["reason"] == "SliceRefusedWrongNode" and event["involvedObject"]["uid"] == "uid-1"
    assert "slices" not in agent.cluster.object["status"]


async def test_retries_say_it_once(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20), decided_on="elsewhere"))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    for _ in range(3):
        await refused(kubelet, given)
    await agent.eventually(lambda: bool(agent.cluster.events))
    assert len(agent.cluster.events) == 1


async def test_a_pod_that_did_not_fit_starts_once_the_card_is_free(agent, kubelet):
    first, second = (slice_pod(GPUShare(GPU_A, CARD_MIB, 0), uid=f"uid-{n}", name=f"pod-{n}") for n in (1, 2))
    agent.cluster.add(first)
    agent.cluster.add(second)
    await kubelet.pre_start(await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))
    waiting = await kubelet.allocate(uid="uid-2", pod="pod-2", container="c0")
    assert "OutOfMemory" in (await refused(kubelet, waiting)).details()
    kubelet.forget("uid-1")
    agent.cluster.delete(first)
    await agent.eventually(lambda: "uid-1" not in agent.agent.state.pins)
    await kubelet.pre_start(waiting)
    await agent.eventually(lambda: "refusals" not in agent.cluster.object["status"])
    assert [s["podUID"] for s in agent.cluster.object["status"]["slices"]] == ["uid-2"]


async def test_an_unhealthy_card_holds_back_even_a_pinned_container_until_it_recovers(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    agent.cards.cards = (card(GPU_A, healthy=False), card(GPU_B, 1))
    await agent.eventually(lambda: not agent.agent.state.gpus[0].healthy)
    words = (await refused(kubelet, given)).details()
    assert "UnhealthyGPU" in words and "starts when it has recovered" in words
    agent.cards.cards = (card(GPU_A), card(GPU_B, 1))
    await agent.eventually(lambda: agent.agent.state.gpus[0].healthy)
    await kubelet.pre_start(given)


async def test_a_plain_init_container_is_refused_in_words(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="setup", init=True)
    assert "slices on init containers are not supported" in (await refused(kubelet, given)).details()
    await agent.eventually(lambda: bool(agent.cluster.events) and "refusals" in agent.cluster.object.get("status", {}))
    assert agent.cluster.events[0]["reason"] == "SliceRefusedInitContainer"
    (refusal,) = agent.cluster.object["status"]["refusals"]
    assert (refusal["podUID"], refusal["container"], refusal["reason"]) == ("uid-1", "setup", "InitContainer")
    assert agent.agent.registry.get_sample_value("mica_node_refusals_total", {"reason": "InitContainer"}) == 1


async def test_an_app_container_that_podresources_does_not_list_yet_is_not_called_an_init_container(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0", init=True)
    error = await refused(kubelet, given)
    assert error.code() is grpc.StatusCode.UNAVAILABLE and not agent.agent.state.refusals


async def test_a_sidecar_is_refused_in_words(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="sidecar")
    assert (await refused(kubelet, given)).details().startswith("UnknownContainer")


async def test_slots_must_be_as_many_as_gpus(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0", count=2)
    assert (await refused(kubelet, given)).details().startswith("NotAsRequested: container c0: 2 slots")


async def test_a_container_whose_limiter_is_gone_does_not_start(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    next(agent.layout.lib.glob("lib/*/ld.so.preload")).unlink()
    assert (await refused(kubelet, given)).details().startswith("LibraryMissing")
    assert not agent.layout.cdi_file(slice_key(given.ids)).exists()


async def test_a_checkpointed_mount_of_a_lost_library_version_holds_the_container_back(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    given.answer.mounts[0].host_path = str(agent.layout.lib / "lib" / "0123" / "ld.so.preload")
    kubelet.write_checkpoint()
    assert "0123/ld.so.preload" in (await refused(kubelet, given)).details()


async def test_slots_of_a_live_pod_are_not_given_to_another_and_that_is_not_held_against_it(new_agent, kubelet):
    agent = new_agent(slot_wait=0.2)
    await agent.start()
    await kubelet.wait_registered()
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    agent.cluster.add(slice_pod(GPUShare(GPU_B, 3072, 20), uid="uid-2", name="pod-2"))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    kubelet.assignments = [replace(given, uid="uid-2", pod="pod-2")]
    kubelet.write_checkpoint()
    error = await refused(kubelet, kubelet.assignments[0])
    assert error.code() is grpc.StatusCode.UNAVAILABLE and "slots still belong to container c0" in error.details()
    assert not agent.agent.state.refusals
    assert "pod=uid-1" in agent.layout.limits_file(slice_key(given.ids)).read_text()


async def test_slots_are_waited_for_until_their_owner_is_seen_dead(agent, kubelet):
    """The kubelet reuses slots when containers have ended; the pod's object says so a moment later."""
    first = slice_pod(GPUShare(GPU_A, 3072, 20))
    agent.cluster.add(first)
    agent.cluster.add(slice_pod(GPUShare(GPU_B, 3072, 20), uid="uid-2", name="pod-2"))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    kubelet.assignments = [replace(given, uid="uid-2", pod="pod-2")]
    kubelet.write_checkpoint()
    starting = asyncio.create_task(kubelet.pre_start(kubelet.assignments[0]))
    done, _ = await asyncio.wait([starting], timeout=0.3)
    assert not done
    agent.cluster.add(replace(first, finished=True))
    await starting
    assert "pod=uid-2" in agent.layout.limits_file(slice_key(given.ids)).read_text()


async def test_slots_of_a_dead_pod_are_taken_over(agent, kubelet):
    first = slice_pod(GPUShare(GPU_A, 3072, 20))
    agent.cluster.add(first)
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    agent.cluster.watched.clear()
    agent.cluster.existing.clear()
    again = slice_pod(GPUShare(GPU_B, 3072, 20), uid="uid-2")
    agent.cluster.watched["default/pod-1"] = again
    kubelet.assignments = [replace(given, uid="uid-2")]
    kubelet.write_checkpoint()
    await kubelet.pre_start(kubelet.assignments[0])
    text = agent.layout.limits_file(slice_key(given.ids)).read_text()
    assert "pod=uid-2" in text and GPU_B in text and "generation=1" in text


async def test_an_unreachable_api_server_is_not_held_against_the_pod(agent, kubelet):
    agent.cluster.down = True
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    error = await refused(kubelet, given)
    assert error.code() is grpc.StatusCode.UNAVAILABLE and "not known yet" in error.details()
    assert not agent.agent.state.refusals
    agent.cluster.down = False
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    await kubelet.pre_start(given)


async def test_a_pod_recreated_under_the_same_name_is_not_mistaken_for_the_old_one(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20), uid="old"))
    given = await kubelet.allocate(uid="new", pod="pod-1", container="c0")
    error = await refused(kubelet, given)
    assert error.code() is grpc.StatusCode.UNAVAILABLE and "not the one" in error.details()
    agent.cluster.add(slice_pod(GPUShare(GPU_B, 3072, 20), uid="new"))
    await kubelet.pre_start(given)
    assert GPU_B in agent.layout.limits_file(slice_key(given.ids)).read_text()


async def test_a_checkpoint_of_unknown_shape_leaves_podresources(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    kubelet.checkpoint_shape = "new"
    await kubelet.pre_start(await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))


async def test_ids_that_nobody_holds_are_not_admitted(agent, kubelet):
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    kubelet.forget("uid-1")
    error = await refused(kubelet, given)
    assert error.code() is grpc.StatusCode.UNAVAILABLE and "lists no container" in error.details()
