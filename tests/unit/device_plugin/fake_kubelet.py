"""A kubelet as far as device plugins see it: wipes sockets at start, serves Registration, dials back inside Register, holds
ListAndWatch, hands out ids, keeps a checkpoint and PodResources, and restarts. Its traps are modelled: the end of an old stream
disconnects whatever is registered under that name by then."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from mica_api import names
from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2 as plugin_api
from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2_grpc as plugin_grpc
from mica_device_plugin._kubelet.podresources_v1 import api_pb2 as resources_api
from mica_device_plugin._kubelet.podresources_v1 import api_pb2_grpc as resources_grpc

AUTHORITY = (("grpc.default_authority", "localhost"),)


@dataclass
class Endpoint:
    """A registered plugin."""

    resource: str
    socket: Path
    options: plugin_api.DevicePluginOptions
    channel: grpc.aio.Channel
    registered_at: float
    devices: dict[str, str] = field(default_factory=dict)
    stream: asyncio.Task[None] | None = None
    alive: bool = True

    @property
    def stub(self) -> plugin_grpc.DevicePluginStub:
        return plugin_grpc.DevicePluginStub(self.channel)


@dataclass
class Assignment:
    """Ids of one container."""

    namespace: str
    pod: str
    uid: str
    container: str
    ids: list[str]
    answer: plugin_api.ContainerAllocateResponse
    init: bool = False


class FakeKubelet:
    """One node's kubelet below ``directory``."""

    def __init__(self, directory: Path, *, seed: int = 0) -> None:
        self.directory = directory
        self.plugins = directory / "device-plugins"
        self.resources = directory / "pod-resources"
        self.endpoints: dict[str, Endpoint] = {}
        self.assignments: list[Assignment] = []
        self.refuse_with: str | None = None
        self.checkpoint_shape = "known"
        self.registrations = 0
        self._registered = asyncio.Condition()
        self._servers: list[grpc.aio.Server] = []
        self._random = random.Random(seed)

    async def start(self) -> None:
        self.plugins.mkdir(parents=True, exist_ok=True)
        self.resources.mkdir(parents=True, exist_ok=True)
        for path in [*self.plugins.glob("*.sock"), *self.resources.glob("*.sock")]:
            path.unlink()
        registration = grpc.aio.server()
        plugin_grpc.add_RegistrationServicer_to_server(_Registration(self), registration)
        registration.add_insecure_port(f"unix://{self.plugins / 'kubelet.sock'}")
        lister = grpc.aio.server()
        resources_grpc.add_PodResourcesListerServicer_to_server(_Lister(self), lister)
        lister.add_insecure_port(f"unix://{self.resources / 'kubelet.sock'}")
        self._servers = [registration, lister]
        for server in self._servers:
            await server.start()

    async def stop(self) -> None:
        for endpoint in list(self.endpoints.values()):
            await self._drop(endpoint)
        self.endpoints.clear()
        for server in self._servers:
            await server.stop(0)
        self._servers = []

    async def restart(self) -> None:
        """A new registration socket, and nothing known of before."""
        await self.stop()
        await self.start()

    async def wait_registered(self, count: int = 3) -> None:
        async with asyncio.timeout(10), self._registered:
            await self._registered.wait_for(lambda: sum(e.alive for e in self.endpoints.values()) >= count)

    async def wait_devices(self, resource: str, *, healthy: int, total: int) -> None:
        def there() -> bool:
            devices = self.endpoints[resource].devices if resource in self.endpoints else {}
            return len(devices) == total and sum(v == "Healthy" for v in devices.values()) == healthy

        async with asyncio.timeout(10), self._registered:
            await self._registered.wait_for(there)

    def healthy(self, resource: str) -> list[str]:
        used = {identifier for a in self.assignments for identifier in a.ids}
        return [i for i, health in self.endpoints[resource].devices.items() if health == "Healthy" and i not in used]

    async def allocate(
        self, *, uid: str, pod: str, container: str, count: int = 1, namespace: str = "default", init: bool = False
    ) -> Assignment:
        """Admission of one container: arbitrary free ids, unsorted; recorded only after Allocate returned."""
        # A plugin that has just registered has not told its devices yet.
        async with asyncio.timeout(10), self._registered:
            await self._registered.wait_for(lambda: len(self.healthy(names.RESOURCE_NUMBER)) >= count)
        ids = self._random.sample(self.healthy(names.RESOURCE_NUMBER), count)
        request = plugin_api.AllocateRequest(container_requests=[plugin_api.ContainerAllocateRequest(devices_ids=ids)])
        answer = await self.endpoints[names.RESOURCE_NUMBER].stub.Allocate(request, timeout=5)
        assignment = Assignment(namespace, pod, uid, container, ids, answer.container_responses[0], init)
        self.assignments.append(assignment)
        self.write_checkpoint()
        return assignment

    async def pre_start(self, assignment: Assignment) -> None:
        self._random.shuffle(assignment.ids)
        request = plugin_api.PreStartContainerRequest(devices_ids=assignment.ids)
        await self.endpoints[names.RESOURCE_NUMBER].stub.PreStartContainer(request, timeout=30)

    def forget(self, uid: str, *, checkpoint_too: bool = True) -> None:
        """The pod's containers have ended."""
        self.assignments = [a for a in self.assignments if a.uid != uid]
        if checkpoint_too:
            self.write_checkpoint()

    def write_checkpoint(self) -> None:
        entries = [
            {
                "PodUID": a.uid,
                "ContainerName": a.container,
                "ResourceName": names.RESOURCE_NUMBER,
                "DeviceIDs": {"-1": a.ids},
                "AllocResp": base64.b64encode(a.answer.SerializeToString()).decode(),
            }
            for a in self.assignments
        ]
        body = {"Data": {"PodDeviceEntries": entries or None, "RegisteredDevices": {}}, "Checksum": 1}
        if self.checkpoint_shape != "known":
            body = {"Entries": entries}
        (self.plugins / "kubelet_internal_checkpoint").write_text(json.dumps(body))

    async def notify(self) -> None:
        async with self._registered:
            self._registered.notify_all()

    async def register(self, request: plugin_api.RegisterRequest) -> None:
        channel = grpc.aio.insecure_channel(f"unix://{self.plugins / request.endpoint}", options=AUTHORITY)
        options = await plugin_grpc.DevicePluginStub(channel).GetDevicePluginOptions(plugin_api.Empty(), timeout=5)
        socket = self.plugins / request.endpoint
        endpoint = Endpoint(request.resource_name, socket, options, channel, time.monotonic())
        self.endpoints[request.resource_name] = endpoint
        self.registrations += 1
        endpoint.stream = asyncio.create_task(self._hold(endpoint))

    async def _hold(self, endpoint: Endpoint) -> None:
        try:
            async for message in endpoint.stub.ListAndWatch(plugin_api.Empty()):
                endpoint.devices = {d.ID: d.health for d in message.devices}
                await self.notify()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        current = self.endpoints.get(endpoint.resource)
        if current is not None:
            current.alive = False
            current.devices = dict.fromkeys(current.devices, "Unhealthy")

    async def _drop(self, endpoint: Endpoint) -> None:
        endpoint.alive = False
        if endpoint.stream is not None:
            endpoint.stream.cancel()
            with suppress(asyncio.CancelledError):
                await endpoint.stream
        await endpoint.channel.close()

    def pod_resources(self) -> Iterator[resources_api.PodResources]:
        for a in (a for a in self.assignments if not a.init):
            devices = [
                resources_api.ContainerDevices(resource_name=names.RESOURCE_NUMBER, device_ids=[identifier])
                for identifier in a.ids
            ]
            other = resources_api.ContainerDevices(resource_name=names.RESOURCE_CORES, device_ids=["core-1", "core-2"])
            container = resources_api.ContainerResources(name=a.container, devices=[*devices, other])
            yield resources_api.PodResources(name=a.pod, namespace=a.namespace, containers=[container])


class _Registration(plugin_grpc.RegistrationServicer):
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    async def Register(self, request, context):
        if self._kubelet.refuse_with is not None:
            await context.abort(grpc.StatusCode.UNKNOWN, self._kubelet.refuse_with)
        await self._kubelet.register(request)
        await self._kubelet.notify()
        return plugin_api.Empty()


class _Lister(resources_grpc.PodResourcesListerServicer):
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    async def List(self, request, context):
        return resources_api.ListPodResourcesResponse(pod_resources=list(self._kubelet.pod_resources()))
