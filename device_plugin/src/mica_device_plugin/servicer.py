"""The device plugin protocol, one servicer per resource: translation between messages and the agent's own functions.

Only the slot resource carries meaning: its Allocate names mounts and a CDI device, its PreStartContainer is the gate. Cores and
memory are there for the sums of kube-scheduler, ResourceQuota and people; their Allocate answers nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NoReturn

import grpc
import grpc.aio
from prometheus_client import Histogram

from mica_api import names
from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2 as api
from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2_grpc
from mica_device_plugin.cdi import Bind, cdi_name
from mica_device_plugin.devices import Device
from mica_device_plugin.feed import DeviceFeed
from mica_device_plugin.gate import Refused, Undecided
from mica_device_plugin.values import SliceKey, slice_key
from mica_runtime.logging import get_logger

START_DEADLINE_S: Final = 25.0
_log = get_logger(__name__)

Admit = Callable[[Sequence[str]], Awaitable[None]]
Prepare = Callable[[SliceKey], Awaitable[tuple[Bind, ...]]]
_Context = grpc.aio.ServicerContext[object, object]


def options(resource: str) -> api.DevicePluginOptions:
    """What the kubelet is told about a resource, at registration and when it asks."""
    return api.DevicePluginOptions(pre_start_required=resource == names.RESOURCE_NUMBER)


class DevicePlugin(api_pb2_grpc.DevicePluginServicer):
    """Devices of one resource; amounts without meaning of their own."""

    def __init__(self, resource: str, *, feed: DeviceFeed, stream_ended: Callable[[], None]) -> None:
        self.resource = resource
        self._feed = feed
        self._stream_ended = stream_ended

    async def GetDevicePluginOptions(self, request: api.Empty, context: _Context) -> api.DevicePluginOptions:
        """Same as at registration."""
        return options(self.resource)

    async def ListAndWatch(self, request: api.Empty, context: _Context) -> AsyncIterator[api.ListAndWatchResponse]:
        """The whole list at once, then after every change, until the kubelet goes away."""
        try:
            devices = self._feed.current(self.resource)
            while True:
                yield _response(devices)
                devices = await self._feed.next_after(self.resource, devices)
        finally:
            self._stream_ended()

    async def GetPreferredAllocation(
        self, request: api.PreferredAllocationRequest, context: _Context
    ) -> api.PreferredAllocationResponse:
        """Never asked for: options say so."""
        return api.PreferredAllocationResponse()

    async def Allocate(self, request: api.AllocateRequest, context: _Context) -> api.AllocateResponse:
        """Nothing is attached to an amount."""
        return api.AllocateResponse(container_responses=[api.ContainerAllocateResponse() for _ in request.container_requests])

    async def PreStartContainer(self, request: api.PreStartContainerRequest, context: _Context) -> api.PreStartContainerResponse:
        """Never asked for: options say so."""
        return api.PreStartContainerResponse()


class SlotPlugin(DevicePlugin):
    """The slots, which carry decisions."""

    def __init__(
        self,
        *,
        feed: DeviceFeed,
        stream_ended: Callable[[], None],
        prepare: Prepare,
        admit: Admit,
        duration: Histogram,
    ) -> None:
        super().__init__(names.RESOURCE_NUMBER, feed=feed, stream_ended=stream_ended)
        self._prepare = prepare
        self._admit = admit
        self._duration = duration

    async def Allocate(self, request: api.AllocateRequest, context: _Context) -> api.AllocateResponse:
        """Mounts and CDI name by id set. Repeating it is harmless."""
        try:
            answers = [await self._allocate(list(c.devices_ids)) for c in request.container_requests]
        except OSError as error:
            _log.error("slice directories cannot be made", error=str(error))
            await _abort(context, grpc.StatusCode.INTERNAL, f"slice directories cannot be made: {error}")
        return api.AllocateResponse(container_responses=answers)

    async def PreStartContainer(self, request: api.PreStartContainerRequest, context: _Context) -> api.PreStartContainerResponse:
        """Let the container start, or answer with words that become its waiting message."""
        try:
            with self._duration.time():
                async with asyncio.timeout(START_DEADLINE_S):
                    await self._admit(list(request.devices_ids))
        except Refused as refused:
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"{refused.refuse.reason}: {refused}")
        except Undecided as undecided:
            _log.warning("container cannot be judged yet", reason=str(undecided))
            await _abort(context, grpc.StatusCode.UNAVAILABLE, str(undecided))
        except TimeoutError:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, f"not decided within {START_DEADLINE_S:.0f} s")
        except OSError as error:
            _log.error("slice cannot be written", error=str(error))
            await _abort(context, grpc.StatusCode.INTERNAL, f"slice cannot be written: {error}")
        return api.PreStartContainerResponse()

    async def _allocate(self, ids: Sequence[str]) -> api.ContainerAllocateResponse:
        key = slice_key(ids)
        binds = await self._prepare(key)
        mounts = [api.Mount(container_path=b.container, host_path=str(b.host), read_only=b.read_only) for b in binds]
        return api.ContainerAllocateResponse(mounts=mounts, cdi_devices=[api.CDIDevice(name=cdi_name(key))])


async def _abort(context: _Context, code: grpc.StatusCode, message: str) -> NoReturn:
    await context.abort(code, message)
    raise AssertionError("abort returned")


def _response(devices: tuple[Device, ...]) -> api.ListAndWatchResponse:
    health = {True: "Healthy", False: "Unhealthy"}
    return api.ListAndWatchResponse(devices=[api.Device(ID=d.id, health=health[d.healthy]) for d in devices])
