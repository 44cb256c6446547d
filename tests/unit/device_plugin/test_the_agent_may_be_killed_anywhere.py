"""Stopped between any two changes of the host's files, and started again: decisions hold, nothing is lost, nothing is left."""

import asyncio
from pathlib import Path

import grpc
import pytest
from agent_under_test import CARD_MIB, GPU_A, GPU_B, NODE, slice_pod

from mica_api import names
from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_device_plugin.files import HostFiles
from mica_device_plugin.values import slice_key

SHARE = GPUShare(GPU_A, 3072, 20)


class Killed(OSError):
    """The process was killed here."""


class DyingFiles(HostFiles):
    """Performs ``budget`` changes, then fails every further one, as if the process had ended."""

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.changes = 0

    def arm(self, budget: int) -> None:
        self.budget, self.changes = budget, 0

    def _change(self) -> None:
        if self.budget is not None and self.changes >= self.budget:
            raise Killed("killed")
        self.changes += 1

    def write(self, path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
        self._change()
        super().write(path, data, mode=mode, durable=durable)

    def make_dir(self, path: Path) -> None:
        self._change()
        super().make_dir(path)

    def remove(self, path: Path) -> None:
        self._change()
        super().remove(path)

    def remove_tree(self, path: Path) -> None:
        self._change()
        super().remove_tree(path)


CHANGES_OF_A_START = 10


@pytest.mark.parametrize("budget", range(CHANGES_OF_A_START + 1))
async def test_killed_during_a_start_the_next_agent_finishes_it(new_agent, kubelet, budget):
    files = DyingFiles()
    first = new_agent()
    first.cluster.add(slice_pod(SHARE))
    await first.start(files)
    await kubelet.wait_registered()
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    files.arm(budget)
    try:
        await kubelet.pre_start(given)
        started = True
    except grpc.aio.AioRpcError as error:
        started = False
        assert "killed" in (error.details() or "")
    assert started == (budget >= CHANGES_OF_A_START)
    await first.stop()
    second = new_agent(cluster=first.cluster)
    await second.start()
    await kubelet.wait_registered()
    await kubelet.pre_start(given)
    key = slice_key(given.ids)
    assert "pod=uid-1" in second.layout.limits_file(key).read_text()
    assert second.layout.cdi_file(key).exists() and second.layout.pin_file("uid-1").exists()
    kubelet.forget("uid-1")
    second.cluster.delete(slice_pod(SHARE))
    await second.eventually(lambda: not second.leftovers())


async def test_killed_during_a_removal_the_next_agent_finishes_it(new_agent, kubelet):
    for budget in range(4):
        files = DyingFiles()
        first = new_agent()
        pod = slice_pod(SHARE)
        first.cluster.add(pod)
        await first.start(files)
        await kubelet.wait_registered()
        await kubelet.pre_start(await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))
        files.arm(budget)
        kubelet.forget("uid-1")
        first.cluster.delete(pod)
        await first.eventually(lambda files=files, budget=budget: files.changes >= min(budget, 3))
        await first.stop()
        second = new_agent(cluster=first.cluster)
        await second.start()
        await second.eventually(lambda second=second: not second.leftovers())
        await second.stop()


async def test_a_new_agent_still_counts_what_the_old_one_let_start(new_agent, kubelet):
    first = new_agent()
    first.cluster.add(slice_pod(GPUShare(GPU_A, CARD_MIB, 0)))
    await first.start()
    await kubelet.wait_registered()
    await kubelet.pre_start(await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0"))
    await first.stop()
    second = new_agent(cluster=first.cluster)
    second.cluster.add(slice_pod(SHARE, uid="uid-2", name="pod-2"))
    await second.start()
    await kubelet.wait_registered()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.pre_start(await kubelet.allocate(uid="uid-2", pod="pod-2", container="c0"))
    assert "OutOfMemory" in caught.value.details()


async def test_two_pods_that_start_at_once_cannot_both_have_the_card(agent, kubelet):
    for number in (1, 2):
        agent.cluster.add(slice_pod(GPUShare(GPU_A, CARD_MIB, 0), uid=f"uid-{number}", name=f"pod-{number}"))
    given = [await kubelet.allocate(uid=f"uid-{n}", pod=f"pod-{n}", container="c0") for n in (1, 2)]
    outcomes = await asyncio.gather(*map(kubelet.pre_start, given), return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == ["AioRpcError", "NoneType"]


async def test_a_pinned_pod_restarts_while_the_api_server_is_away(new_agent, kubelet):
    first = new_agent()
    first.cluster.add(slice_pod(SHARE))
    await first.start()
    await kubelet.wait_registered()
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    await first.stop()
    second = new_agent()
    second.cluster.down, second.cluster.synced = True, False
    await second.start()
    await kubelet.wait_registered()
    await kubelet.wait_devices(names.RESOURCE_NUMBER, healthy=20, total=20)
    await kubelet.pre_start(given)
    assert "generation=2" in second.layout.limits_file(slice_key(given.ids)).read_text()


async def test_an_edited_annotation_does_not_change_a_pinned_decision(agent, kubelet):
    pod = slice_pod(SHARE)
    agent.cluster.add(pod)
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    pod.annotations.update(encode_pod_allocation(pod_uid="uid-1", node=NODE, shares=[[GPUShare(GPU_B, CARD_MIB, 100)]]))
    await kubelet.pre_start(given)
    assert GPU_B not in agent.layout.limits_file(slice_key(given.ids)).read_text()
    await agent.eventually(lambda: bool(agent.cluster.events))
    assert agent.cluster.events[0]["reason"] == "DecisionChanged"


async def test_a_damaged_pin_is_verified_anew(new_agent, kubelet):
    first = new_agent()
    first.cluster.add(slice_pod(SHARE))
    await first.start()
    await kubelet.wait_registered()
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    await kubelet.pre_start(given)
    await first.stop()
    first.layout.pin_file("uid-1").write_text('{"v": 1')
    second = new_agent(cluster=first.cluster)
    await second.start()
    await kubelet.wait_registered()
    assert not second.agent.state.pins
    await kubelet.pre_start(given)
    assert "uid-1" in second.agent.state.pins
