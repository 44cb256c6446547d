"""Registration: at once when the kubelet is new, old servers gone before, refused registrations end the process."""

import asyncio

import pytest
from agent_under_test import GPU_A, make_pool, slice_pod

from mica_api import names
from mica_api.allocation import GPUShare
from mica_device_plugin.registrar import RegistrationRefused


async def test_a_restarted_kubelet_has_the_plugin_back_each_time(agent, kubelet):
    for _ in range(5):
        await kubelet.restart()
        await kubelet.wait_registered()
        await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=20, total=20)


async def test_a_kubelet_that_stays_away_for_a_while_is_found(agent, kubelet):
    await kubelet.stop()
    (kubelet.plugins / "kubelet.sock").unlink(missing_ok=True)
    await agent.eventually(lambda: not agent.agent.state.registered)
    await kubelet.start()
    await kubelet.wait_registered()
    await agent.eventually(lambda: agent.agent.state.registered)


async def test_a_lost_socket_of_ours_is_made_again(agent, kubelet):
    before = kubelet.registrations
    for path in kubelet.plugins.glob("mica-*.sock"):
        path.unlink()
    await agent.eventually(lambda: kubelet.registrations >= before + 3)
    await kubelet.wait_registered()


async def test_registering_again_leaves_no_old_stream_that_could_disconnect_the_new_one(agent, kubelet):
    agent.agent.registrar.stream_ended()
    await agent.eventually(lambda: kubelet.registrations == 6)
    await agent.eventually(lambda: agent.agent.state.registered)
    await asyncio.sleep(0.05)
    old_sockets = [p for p in kubelet.plugins.glob("mica-*.sock") if p not in {e.socket for e in kubelet.endpoints.values()}]
    assert old_sockets == []


async def test_a_waiting_pod_starts_after_the_kubelets_restart(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.restart()
    await kubelet.wait_registered()
    await kubelet.pre_start(given)


async def test_a_refused_registration_ends_the_process(new_agent, kubelet):
    kubelet.refuse_with = "resource name taken"
    running = new_agent()
    await running.start()
    done, _ = await asyncio.wait(running.parts, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(RegistrationRefused, match="resource name taken"):
        done.pop().result()


async def test_nothing_is_registered_before_the_pool_is_known_and_nothing_advertised_without_one(new_agent, kubelet):
    running = new_agent()
    running.cluster.synced = False
    await running.start()
    await asyncio.sleep(0.1)
    assert kubelet.registrations == 0
    running.cluster.all_pools = (make_pool("elsewhere", labels={"zone": "b"}),)
    running.cluster.synced = True
    running.cluster.changed()
    await kubelet.wait_registered()
    assert kubelet.endpoints[names.RESOURCE_NUMBER].devices == {}
    await running.eventually(lambda: "status" in (running.cluster.object or {}))
    conditions = {c["type"]: c for c in running.cluster.object["status"]["conditions"]}
    assert conditions["PoolSelected"]["reason"] == "NoPool" and conditions["Ready"]["status"] == "False"
    running.cluster.all_pools = (make_pool(max_slices=4),)
    running.cluster.changed()
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=8, total=8)


async def test_an_agent_that_ends_says_that_its_node_takes_no_slices(agent, kubelet):
    def ready():
        conditions = agent.cluster.object.get("status", {}).get("conditions", [])
        return {c["type"]: c["status"] for c in conditions}.get("Ready")

    await agent.eventually(lambda: ready() == "True")
    await agent.stop()
    await agent.agent.publisher.say_goodbye()
    assert ready() == "False"
