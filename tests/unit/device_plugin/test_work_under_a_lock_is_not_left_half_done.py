"""A start that is given up (deadline, kubelet gone) keeps its lock until the thread that writes its files has ended."""

import asyncio
import threading
from pathlib import Path

import pytest
from agent_under_test import GPU_A, slice_pod

from mica_api.allocation import GPUShare
from mica_device_plugin.files import HostFiles
from mica_device_plugin.finishing import to_the_end
from mica_device_plugin.values import slice_key


class SlowFiles(HostFiles):
    """Holds up the write of limits until told to go on."""

    def __init__(self) -> None:
        self.writing = threading.Event()
        self.go_on = threading.Event()

    def write(self, path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
        if path.name == "limits":
            self.writing.set()
            self.go_on.wait(timeout=10)
        super().write(path, data, mode=mode, durable=durable)


async def test_the_lock_outlives_a_cancelled_start_until_its_files_are_written(new_agent, kubelet):
    files, running = SlowFiles(), new_agent()
    running.cluster.add(slice_pod(GPUShare(GPU_A, 3072, 20)))
    await running.start(files)
    await kubelet.wait_registered()
    given = await kubelet.allocate(uid="uid-1", pod="pod-1", container="c0")
    starting = asyncio.create_task(kubelet.pre_start(given))
    await running.eventually(files.writing.is_set)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await asyncio.sleep(0.1)
    still_locked = running.agent.state.lock.locked()
    files.go_on.set()
    assert still_locked
    await running.eventually(lambda: not running.agent.state.lock.locked())
    assert running.layout.cdi_file(slice_key(given.ids)).exists()


async def test_a_cancellation_is_raised_after_the_end_and_a_failure_of_the_work_is_not_lost_before_it():
    ended = asyncio.Event()

    async def work(fail: bool) -> str:
        await asyncio.sleep(0.01)
        ended.set()
        if fail:
            raise OSError("disk")
        return "done"

    assert await to_the_end(work(False)) == "done"
    with pytest.raises(OSError, match="disk"):
        await to_the_end(work(True))
    for fail in (False, True):
        ended.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await to_the_end(work(fail))
        assert ended.is_set()
