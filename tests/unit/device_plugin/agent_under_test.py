"""The real agent over fake cards and a fake API server, started and killed at will, and the pods it is asked about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mica_api import names
from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_api.models import VGPUNode, VGPUPool
from mica_api.request import ContainerRequest, PodRequest, canonical_resources, encode_request
from mica_device_plugin.agent import Agent, install
from mica_device_plugin.cluster import NodeView
from mica_device_plugin.discovery import DriverProblem, Survey
from mica_device_plugin.files import Files, HostFiles
from mica_device_plugin.settings import AgentSettings
from mica_device_plugin.values import GPUDevice, Inventory, PodView, Reading
from mica_runtime.kube import ApiError, Unreachable

NODE = "node-1"
GPU_A, GPU_B = (f"GPU-{n:08d}-0000-4000-8000-000000000000" for n in (1, 2))
CARD_MIB = 80 * 1024


def card(uuid: str, index: int = 0, **changes: Any) -> GPUDevice:
    return replace(GPUDevice(uuid, index, "NVIDIA H100 80GB HBM3", CARD_MIB), **changes)


CARDS = (card(GPU_A, 0), card(GPU_B, 1))


def slice_pod(
    *shares: GPUShare | list[GPUShare],
    uid: str = "uid-1",
    name: str = "pod-1",
    node: str = NODE,
    decided_for: str | None = None,
    decided_on: str | None = None,
    asked: tuple[ContainerRequest, ...] | None = None,
) -> PodView:
    """A bound pod: one container per share (or list of shares), asking for exactly what was decided unless ``asked`` differs."""
    per_container = [share if isinstance(share, list) else [share] for share in shares]
    requests = asked or tuple(
        ContainerRequest(f"c{i}", number=len(s), cores=s[0].cores if s else 0, memory_mib=s[0].memory_mib if s else 0)
        for i, s in enumerate(per_container)
    )
    annotations = encode_pod_allocation(pod_uid=decided_for or uid, node=decided_on or node, shares=per_container)
    annotations[names.ANNOTATION_REQUEST] = encode_request(PodRequest(requests))
    containers = tuple((r.name, {k: str(v) for k, v in canonical_resources(r).items()}) for r in requests)
    return PodView(uid, "default", name, node, annotations, containers)


def make_pool(name: str = "default", *, max_slices: int = 10, labels: Mapping[str, str] | None = None) -> VGPUPool:
    spec: dict[str, Any] = {"maxSlicesPerGPU": max_slices}
    if labels:
        spec["nodeSelector"] = {"matchLabels": dict(labels)}
    return VGPUPool.model_validate({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec})


def make_settings(host: Path) -> AgentSettings:
    """Settings below ``host``, with an image's libraries made up."""
    lib, sim = host / "image" / "lib", host / "image" / "sim"
    for directory, files in (
        (lib, ("libmica.so", "libmica-nvml.so", "gpu-monitor")),
        (sim, ("libcuda.so.1", "libnvidia-ml.so.1")),
    ):
        directory.mkdir(parents=True, exist_ok=True)
        for name in files:
            (directory / name).write_text(f"content of {name}")
    return AgentSettings(
        node_name=NODE,
        lib_dir=lib,
        sim_lib_dir=sim,
        sim_dir=host / "run" / "sim",
        host_run=host / "run",
        host_lib=host / "var",
        cdi_dir=host / "cdi",
        kubelet_dir=host / "kubelet",
        simulated=True,
    )


class FakeCards:
    """Discovery whose cards a test changes."""

    def __init__(self, *cards: GPUDevice) -> None:
        self.cards = cards or CARDS
        self.problem: str | None = None

    def survey(self) -> Survey:
        if self.problem:
            raise DriverProblem(self.problem)
        readings = {gpu.uuid: Reading(memory_used=1, utilization=0.5) for gpu in self.cards}
        return Survey(Inventory("580.95.05", True, tuple(self.cards)), readings)


class FakeCluster:
    """An API server in a dict. ``down``: nothing answers; what was watched before stays known."""

    def __init__(self) -> None:
        self.synced = True
        self.down = False
        self.watched: dict[str, PodView] = {}
        self.existing: dict[str, PodView] = {}
        self.own = NodeView(uid="node-uid", labels={})
        self.all_pools: tuple[VGPUPool, ...] = (make_pool(),)
        self.object: dict[str, Any] | None = None
        self.events: list[dict[str, Any]] = []
        self.writes = 0
        self._listeners: list[Callable[[], None]] = []

    def add(self, pod: PodView, *, watched: bool = True) -> None:
        key = f"{pod.namespace}/{pod.name}"
        self.existing[key] = pod
        if watched:
            self.watched[key] = pod
        self.changed()

    def delete(self, pod: PodView) -> None:
        key = f"{pod.namespace}/{pod.name}"
        self.existing.pop(key, None)
        self.watched.pop(key, None)
        self.changed()

    def changed(self) -> None:
        for listener in self._listeners:
            listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    async def run(self) -> None:
        await asyncio.Event().wait()

    def pods(self) -> Mapping[str, PodView]:
        return self.watched

    def node(self) -> NodeView | None:
        return self.own

    def pools(self) -> tuple[VGPUPool, ...]:
        return self.all_pools

    def stored(self) -> VGPUNode | None:
        return VGPUNode.model_validate(self.object) if self.object is not None else None

    async def get_pod(self, namespace: str, name: str) -> PodView | None:
        self._answer()
        return self.existing.get(f"{namespace}/{name}")

    async def apply_node(self, body: Mapping[str, Any]) -> None:
        self._answer()
        status = {"status": self.object["status"]} if self.object and "status" in self.object else {}
        metadata = {**body["metadata"], "generation": 1}
        self.object = {"metadata": metadata, "spec": body["spec"], **status}
        self.writes += 1
        self.changed()

    async def apply_status(self, body: Mapping[str, Any]) -> None:
        self._answer()
        if self.object is None:
            raise ApiError(404, "NotFound", "no such object")
        self.object = {**self.object, "status": body["status"]}
        self.writes += 1
        self.changed()

    async def create_event(self, namespace: str, body: Mapping[str, Any]) -> None:
        self._answer()
        self.events.append(dict(body))

    def _answer(self) -> None:
        if self.down:
            raise Unreachable("connection refused")


class AgentUnderTest:
    """Start, stop and kill one agent; the node's files and the API server outlive it."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        cluster: FakeCluster | None = None,
        cards: FakeCards | None = None,
        slot_wait: float = 5.0,
    ) -> None:
        self.settings = settings
        self.layout = settings.layout()
        self.cluster = cluster or FakeCluster()
        self.cards = cards or FakeCards()
        self.slot_wait = slot_wait
        self.agent: Agent
        self.parts: list[asyncio.Task[None]] = []

    async def start(self, files: Files | None = None) -> None:
        used = files or HostFiles()
        installed = install(self.settings, used, root=self.settings.host_run / "nowhere")
        self.agent = Agent(
            self.settings,
            installed=installed,
            cluster=self.cluster,
            files=used,
            discovery=self.cards,
            slot_wait=self.slot_wait,
        )
        self.parts = [asyncio.create_task(part) for part in await self.agent.prepare()]

    async def stop(self) -> None:
        for part in self.parts:
            part.cancel()
        await asyncio.gather(*self.parts, return_exceptions=True)
        self.parts = []

    async def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait for a state that the agent's loops bring about; fails after ten seconds."""
        async with asyncio.timeout(10):
            for _ in iter(holds, True):
                await asyncio.sleep(0.01)

    def leftovers(self) -> list[str]:
        """Everything on the host that belongs to slices."""
        found = [*self.layout.slices.glob("*"), *self.layout.cdi.glob("*"), *self.layout.pins.glob("*")]
        return sorted(str(path.relative_to(self.settings.host_run.parent)) for path in found)
