"""The machinery of the throughput benchmark: a quiet box, its population through the API, and who was bound when.

Quiet: while something is measured, the box's own controllers, scheduler and fake nodes are stopped (SIGSTOP), so that the API
server works for the scheduler under test alone.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from benchmarks._command import CannotMeasure
from benchmarks.scheduler import load
from benchmarks.scheduler.load import NAMESPACE, Scale
from mica_api import names
from mica_box import processes
from mica_box.child import cpu_seconds
from mica_box.progress import Meter
from mica_box.running import RunningBox
from mica_runtime.kube import KubeClient

T = TypeVar("T")

BESIDE: Final = ("kube-controller-manager", "kube-scheduler", "kwok")
_AT_ONCE: Final = 24
_READ_BUFFER: Final = 8 * 2**20
"""More than a whole run sends: a TLS stream of uvloop that was paused because its reader lagged goes on only with new bytes."""
_PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
_VGPUNODES: Final = f"/apis/{names.API_VERSION}/vgpunodes"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_REQUESTS: Final = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


def quiet(box: RunningBox) -> None:
    """Stop everything of the box but etcd and the API server. They end with the box."""
    for daemon in BESIDE:
        box.box.kill(daemon, "STOP")


def daemon_pid(box: RunningBox, daemon: str) -> int:
    """Process id of a daemon of the box, as the host sees it."""
    for pid in processes.members(box.box.spec):
        words = processes.command_line(pid)
        if words and words[0].rpartition("/")[2] == daemon:
            return pid
    raise CannotMeasure(f"{daemon} does not run in box {box.box.name}")


async def each(text: str, items: Iterable[T], act: Callable[[T], Awaitable[Any]]) -> None:
    """Do it for every item, many at once, and show how far it is."""
    todo = list(items)
    left = iter(todo)

    async def work(meter: Meter) -> None:
        for item in left:
            await act(item)
            meter.advance()

    with Meter(text, len(todo)) as meter:
        await asyncio.gather(*(work(meter) for _ in range(_AT_ONCE)))


async def populate(client: KubeClient, scale: Scale) -> None:
    """Nodes, their inventories, and the pods that run on them; one node more for the burst."""

    async def add_node(name: str) -> None:
        is_burst = name == load.BURST_NODE
        await client.post("/api/v1/nodes", load.node(name, burst=is_burst))
        await client.merge_patch(f"/api/v1/nodes/{name}", load.without_start_taint(burst=is_burst))
        await client.post(_VGPUNODES, load.inventory(name))

    async def add_running(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
        body, told = pair
        made = await client.post(_PODS, body)
        await client.post(f"{_PODS}/{told['name']}/binding", load.bind(told, made["metadata"]["uid"]))

    await client.post(f"/apis/{names.API_VERSION}/vgpupools", load.pool())
    nodes = [load.BURST_NODE, *(load.node_name(index) for index in range(scale.nodes))]
    await each(f"{len(nodes)} nodes of 8 GPUs", nodes, add_node)
    await each(f"{scale.running} running pods", load.running(scale), add_running)


async def create_pods(client: KubeClient, text: str, bodies: Iterable[dict[str, Any]]) -> None:
    """Create pods through the API, with all admission that is there."""
    await each(text, bodies, lambda body: client.post(_PODS, body))


async def delete_pods(client: KubeClient, kind: str) -> None:
    """Delete all pods of a kind; returns when they are gone."""

    async def shard(index: int) -> None:
        params = {"labelSelector": f"{load.LABEL}={kind},{load.SHARD}={index}"}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        await client.request("DELETE", _PODS, params=params, body=body, deadline=120.0)

    await asyncio.gather(*(shard(index) for index in range(load.SHARDS)))


async def patch_slices(client: KubeClient, node: str, slices: list[dict[str, Any]]) -> None:
    """What the agent of a node says that it holds."""
    await client.merge_patch(f"{_VGPUNODES}/{node}/status", {"status": {"slices": slices}})


async def api_requests(client: KubeClient) -> Counter[str]:
    """Requests that the API server has answered, by ``VERB resource/subresource``; watches and its own look-ups left out."""
    return count_requests((await client.request("GET", "/metrics", deadline=60.0)).decode())


def count_requests(text: str) -> Counter[str]:
    """The same from the text of the API server's metrics."""
    found: Counter[str] = Counter()
    for labels, value in _REQUESTS.findall(text):
        told = dict(_LABEL.findall(labels))
        if told["verb"] not in ("WATCH", "CONNECT"):
            resource = "/".join(part for part in (told["resource"], told["subresource"]) if part)
            found[f"{told['verb']} {resource or 'other'}"] += int(float(value))
    return found


class _Metadata(msgspec.Struct):
    name: str


class _Object(msgspec.Struct):
    metadata: _Metadata


class _Event(msgspec.Struct):
    type: str
    object: _Object


_event: Final = msgspec.json.Decoder(_Event).decode


@dataclass
class Bound:
    """Pods of one kind as they were bound: by the API server's watch, on our clock."""

    expected: int
    on_first: Callable[[], None] = lambda: None
    patience_s: float = 60.0
    at: dict[str, float] = field(default_factory=dict)
    _all: asyncio.Event = field(default_factory=asyncio.Event)
    _heard: float = field(default_factory=time.monotonic)

    def see(self, name: str) -> None:
        """A pod is bound; later events about it say nothing new."""
        if name in self.at:
            return
        self._heard = time.monotonic()
        if not self.at:
            self.on_first()
        self.at[name] = self._heard
        if len(self.at) >= self.expected:
            self._all.set()

    async def all(self, *, stalled: Callable[[], str]) -> None:
        """Until all are bound. Raises CannotMeasure with the caller's words when none was for so long that patience ends."""
        self._heard = time.monotonic()
        while not self._all.is_set():
            left = self._heard + self.patience_s - time.monotonic()
            if left <= 0:
                told = f"{len(self.at)} of {self.expected} pods bound, none for {self.patience_s:.0f} s"
                raise CannotMeasure(f"{told}; {stalled()}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all.wait(), left)

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return max(self.at.values()) - min(self.at.values())


@asynccontextmanager
async def watching(client: KubeClient, kind: str, bound: Bound) -> AsyncIterator[Bound]:
    """While it runs, ``bound`` hears of every pod of this kind that gets a node. No pod of the kind may be bound before."""
    host, session = await client.open_session()
    params = {"labelSelector": f"{load.LABEL}={kind}", "fieldSelector": "spec.nodeName!=", "watch": "1"}

    async def listen(response: aiohttp.ClientResponse) -> None:
        async for line in response.content:
            event = _event(line)
            if event.type in ("ADDED", "MODIFIED"):
                bound.see(event.object.metadata.name)

    stream = session.get(
        host + _PODS,
        params=params,
        headers={"Accept": _METADATA},
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=_READ_BUFFER,
    )
    async with session, stream as response:
        response.raise_for_status()
        listener = asyncio.create_task(listen(response))
        try:
            yield bound
            if listener.done():
                listener.result()
                raise CannotMeasure("the API server ended our watch, so nobody knows when pods were bound")
        finally:
            listener.cancel()
            await asyncio.wait({listener})


class CpuClock:
    """Processor time of named processes, from one moment on."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._start = self._now()

    def restart(self) -> None:
        """Count from now."""
        self._start = self._now()

    def seconds(self) -> dict[str, float]:
        """Processor seconds by name since then."""
        return {name: now - self._start[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}
