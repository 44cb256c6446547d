"""The path of one container through a real agent: Allocate, PreStartContainer, files, VGPUNode, removal."""

import json
import stat

import pytest
from agent_under_test import GPU_A, GPU_B, make_pool, slice_pod

from mica_api import names
from mica_api.allocation import GPUShare
from mica_device_plugin.region import SIZE
from mica_device_plugin.values import slice_key


async def test_allocate_names_the_cdi_device_and_the_limiters_mounts_without_any_pod(agent, kubelet):
    agent.cluster.down = True
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    key = slice_key(given.ids)
    assert [d.name for d in given.answer.cdi_devices] == [f"mica.dev/slice={key}"]
    mounts = {m.container_path: m for m in given.answer.mounts}
    assert set(mounts) == {
        "/etc/ld.so.preload",
        "/usr/lib/mica/libmica.so",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "/usr/bin/gpu-monitor",
        "/opt/xpu/bin/gpu-monitor",
        "/run/mica/limits",
        "/run/mica/usage/region",
        "/run/mica/node",
    }
    assert [path for path, m in mounts.items() if not m.read_only] == ["/run/mica/usage/region"]
    assert agent.layout.arbiter_dir.is_dir() and mounts["/run/mica/node"].host_path == str(agent.layout.arbiter_dir)
    assert agent.layout.limits_dir(key).is_dir()
    assert mounts["/run/mica/usage/region"].host_path == str(agent.layout.region_file(key))
    assert agent.layout.region_file(key).read_bytes() == b""  # the limiter refuses it


async def test_a_directory_that_a_runtime_made_where_the_region_was_to_be_gives_way(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    region = agent.layout.region_file(slice_key(given.ids))
    region.unlink()
    region.mkdir()
    agent.agent.store.prepare(slice_key(given.ids))
    assert region.is_file()
    region.unlink()
    region.mkdir()
    await kubelet.pre_start(given)
    assert region.stat().st_size == SIZE


async def test_a_region_that_its_container_makes_longer_is_cut_while_it_runs(agent, kubelet):
    """All that a container may use of the node's memory in it is the region."""
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    region = agent.layout.region_file(slice_key(given.ids))
    inode = region.stat().st_ino
    for _ in range(2):
        with region.open("ab") as file:
            file.write(b"x" * (1 << 20))
        await agent.eventually(lambda: region.stat().st_size == SIZE)
    assert region.stat().st_ino == inode


async def test_the_slice_is_written_before_prestart_answers(agent, kubelet):
    agent.cluster.add(slice_pod([GPUShare(GPU_B, 3072, 20), GPUShare(GPU_A, 3072, 20)]))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0", count=2)
    await kubelet.pre_start(given)
    key = slice_key(given.ids)
    lines = agent.layout.limits_file(key).read_text().splitlines()
    assert lines[:8] == [
        "version=1",
        "generation=1",
        "mode=enforce",
        "pod=uid-1",
        "container=c0",
        "driver=/usr/lib/mica/driver/libcuda.so.1",
        "oversubscribe=false",
        "gpus=2",
    ]
    assert f"gpu.0.uuid={GPU_A}" in lines and "gpu.0.memory=3221225472" in lines and "gpu.1.cores=20" in lines
    assert {"gpu.1.weight=100", "gpu.1.policy=strict", "gpu.1.priority=normal"} <= set(lines)
    region = agent.layout.region_file(key).stat()
    assert region.st_size == SIZE and stat.S_IMODE(region.st_mode) == 0o666
    spec = json.loads(agent.layout.cdi_file(key).read_text())
    assert stat.S_IMODE(agent.layout.cdi_file(key).stat().st_mode) == 0o644
    assert spec["kind"] == "mica.dev/slice" and spec["devices"][0]["name"] == key
    edits = spec["devices"][0]["containerEdits"]
    assert "hooks" not in edits and "NVIDIA_VISIBLE_DEVICES=void" in edits["env"]
    assert {"LD_PRELOAD=", "LD_AUDIT=", "GLIBC_TUNABLES="} <= set(edits["env"])
    assert {m["containerPath"] for m in edits["mounts"]} == {
        "/usr/lib/mica/driver/libcuda.so.1",
        "/usr/lib/mica/driver/libnvidia-ml.so.1",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05",
        "/run/mica/sim",
    }


@pytest.mark.parametrize("percent", [100, 150])
async def test_memory_may_live_on_the_host_where_the_pool_is_overcommitted(agent, kubelet, percent):
    pool = make_pool()
    agent.cluster.all_pools = (
        pool.model_copy(update={"spec": pool.spec.model_copy(update={"memory_overcommit_percent": percent})}),
    )
    agent.cluster.changed()
    await agent.eventually(lambda: agent.agent.state.pool.sharing.memory_overcommit_percent == percent)
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    text = agent.layout.limits_file(slice_key(given.ids)).read_text()
    assert ("oversubscribe=true\n" in text) == (percent > 100)


async def test_a_restart_of_the_container_raises_the_generation_and_keeps_the_decision(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    await kubelet.pre_start(given)
    assert "generation=2" in agent.layout.limits_file(slice_key(given.ids)).read_text()


async def test_the_vgpunode_lists_inventory_and_slices_and_is_owned_by_its_node(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20), GPUShare(GPU_B, 1536, 0)))
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    await agent.eventually(lambda: bool((agent.cluster.object or {}).get("status", {}).get("slices")))
    stored = agent.cluster.object
    owner = stored["metadata"]["ownerReferences"]
    assert owner == [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-uid"}]
    assert stored["spec"]["pool"] == "default" and len(stored["spec"]["gpus"]) == 2
    assert stored["status"]["summary"] == {
        "gpus": 2,
        "exclusive": 0,
        "cordoned": 0,
        "model": "NVIDIA H100 80GB HBM3",
        "slices": "2/20",
        "cores": "20/200 %",
        "memory": "4.5/160 GiB",
    }
    assert [s["container"] for s in stored["status"]["slices"]] == ["c0", "c1"]
    ready = {c["type"]: c["status"] for c in stored["status"]["conditions"]}
    assert ready == dict.fromkeys(
        ("DriverOK", "PoolSelected", "Registered", "GPUsHealthy", "CordonApplied", "LimiterComplete", "Ready"), "True"
    )


async def test_nothing_is_left_after_the_pod_is_gone(agent, kubelet):
    pod = slice_pod(GPUShare(GPU_A, 3072, 20))
    agent.cluster.add(pod)
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    assert len(agent.leftovers()) == 3
    kubelet.forget("uid-1")
    agent.cluster.delete(pod)
    await agent.eventually(lambda: not agent.leftovers())
    await agent.eventually(lambda: "slices" not in agent.cluster.object["status"])
    assert agent.cluster.object["status"]["summary"]["slices"] == "0/20"


async def test_cores_and_memory_are_advertised_and_allocate_to_nothing(agent, kubelet):
    await kubelet.wait_devices(names.RESOURCE_CORES, healthy=200, total=200)
    await kubelet.wait_devices(names.RESOURCE_MEMORY, healthy=160, total=160)
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=20, total=20)
    options = {resource: endpoint.options.pre_start_required for resource, endpoint in kubelet.endpoints.items()}
    assert options == {names.RESOURCE_NUMBER: True, names.RESOURCE_CORES: False, names.RESOURCE_MEMORY: False}


async def test_a_pod_that_the_watch_has_not_seen_yet_is_fetched(agent, kubelet):
    agent.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)), watched=False)
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    assert agent.layout.cdi_file(slice_key(given.ids)).exists()
