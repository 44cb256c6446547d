"""One loop per object that exists, and the copy of all names that tells services when theirs is another's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mica_operator.loop import Loop, LoopSet, Pulse, Wakeups
from mica_operator.metrics import Metrics
from mica_operator.names_index import NamesIndex

pytestmark = pytest.mark.looptime
KEY = ("InferenceService", "ml/tiny")


def _loops() -> LoopSet:
    clock = asyncio.get_running_loop().time
    return LoopSet(Loop(Wakeups(), Pulse(clock), Metrics(CollectorRegistry()), resync_s=1e6))


class Looks:
    """Counts looks."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> bool:
        self.count += 1
        return True


async def test_a_loop_begins_with_its_object_looks_again_and_ends_with_it() -> None:
    loops, looks = _loops(), Looks()
    for expected in (1, 2):
        loops.look(KEY, looks)
        await asyncio.sleep(1)
        assert looks.count == expected
    loops.end(KEY)
    await asyncio.sleep(1)
    loops.end(KEY)
    loops.look(KEY, looks)
    await asyncio.sleep(1)
    assert looks.count == 3, "an object of the same name begins anew"
    loops.end(KEY)


async def test_all_loops_end_with_the_process() -> None:
    loops, looks = _loops(), Looks()
    task = asyncio.create_task(loops.run())
    for number in range(3):
        loops.look(("InferenceService", f"ml/{number}"), looks)
    await asyncio.sleep(1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert looks.count == 3 and asyncio.all_tasks() == {asyncio.current_task()}


class Api:
    """Lists what it was given, then streams what a test sends."""

    def __init__(self, *services: dict[str, Any]) -> None:
        self._services = services
        self.events = asyncio.Queue[bytes]()

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": self._services}).encode()

    async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        while True:
            yield await self.events.get()

    def send(self, kind: str, body: dict[str, Any], version: str) -> None:
        body["metadata"]["resourceVersion"] = version
        self.events.put_nowait(json.dumps({"type": kind, "object": body}).encode())


def _service(service: str, created: int, **model: Any) -> dict[str, Any]:
    meta = {
        "name": service,
        "namespace": "ml",
        "creationTimestamp": f"2026-01-01T00:00:0{created}Z",
        "resourceVersion": "1",
        "uid": service,
    }
    return {"metadata": meta, "spec": {"model": {"uri": "file:///m", **model}}}


async def test_a_name_passes_to_the_next_when_its_owner_goes() -> None:
    api, woken = Api(_service("old", 1, name="chat"), _service("new", 2, aliases=["chat"])), list[str]()
    index = NamesIndex(api, on_change=lambda namespace, name: woken.append(name))
    assert index.shadowed("ml", "new") == ()
    task = asyncio.create_task(index.run())
    await index.wait_synced()
    assert index.shadowed("ml", "new") == (("chat", "ml/old"),)
    assert (index.owner("chat"), index.owner("ml/new"), index.owner("none")) == ("ml/old", "ml/new", None)
    woken.clear()
    api.send("DELETED", _service("old", 1, name="chat"), "2")
    await asyncio.sleep(1)
    assert "new" in woken
    assert index.shadowed("ml", "new") == () and index.owner("chat") == "ml/new"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
