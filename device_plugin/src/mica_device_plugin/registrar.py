"""Being a device plugin: serve sockets, register, notice at once when the kubelet is new, and start over.

A pod that waits for its first start survives a kubelet restart only if the plugin is back within about half a second, so the
directory is watched (inotify) and polled as a backup. Old servers are stopped *before* registering again: when an old
ListAndWatch stream ends, the kubelet disconnects whatever is registered under the name by then.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import watchfiles

from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2 as api
from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2_grpc
from mica_device_plugin.servicer import DevicePlugin, options
from mica_runtime.logging import get_logger
from mica_runtime.waiting import woken

_VERSION: Final = "v1beta1"
_PREFIX: Final = "mica-"
_POLL_S: Final = 1.0
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_DIAL_S: Final = 5.0
_REGISTER_S: Final = 15.0
_REFUSALS_BELIEVED: Final = 3
_AUTHORITY: Final = (("grpc.default_authority", "localhost"),)
_log = get_logger(__name__)

Identity = tuple[int, int, int] | None


class RegistrationRefused(RuntimeError):
    """The kubelet does not take the plugin (name taken, version); the process ends and the DaemonSet backs off."""


class Registrar:
    """Keeps the plugins registered. ``directory`` is the kubelet's device plugin directory."""

    def __init__(self, *, directory: Path, registered: Callable[[bool], None]) -> None:
        """``registered`` is told whenever registration is gained or lost."""
        self._directory = directory
        self._kubelet = directory / "kubelet.sock"
        self._registered = registered
        self._wake = asyncio.Event()
        self._stream_lost = False
        self._servers: dict[Path, grpc.aio.Server] = {}
        self._generation = 0
        self._refusals = 0

    def stream_ended(self) -> None:
        """The kubelet closed a ListAndWatch stream (called by servicers)."""
        self._stream_lost = True
        self._wake.set()

    async def run(self, plugins: Sequence[DevicePlugin]) -> None:
        """Serve and stay registered until cancelled. Raises RegistrationRefused."""
        watcher = asyncio.create_task(self._watch())
        try:
            failures = 0
            while True:
                kubelet = _identity(self._kubelet)
                taken_by = await self._start_over(plugins) if kubelet is not None else None
                if taken_by is not None:
                    failures = 0
                    await self._until_broken(taken_by)
                    self._registered(False)
                    continue
                delay = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                if await self._new_kubelet(kubelet, within=delay):
                    failures = 0
        finally:
            watcher.cancel()
            await self._stop()

    async def _start_over(self, plugins: Sequence[DevicePlugin]) -> Identity:
        """The kubelet that took the registration, None if none did."""
        await self._stop()
        self._stream_lost = False
        try:
            sockets = [await self._serve(plugin) for plugin in plugins]
            # Looked at last: a kubelet that replaced the one before meanwhile would else be taken for one that comes later.
            kubelet = _identity(self._kubelet)
            for plugin, socket in zip(plugins, sockets, strict=True):
                await self._register(plugin, socket)
        except grpc.aio.AioRpcError as error:
            self._judge(error)
            return None
        except OSError as error:
            _log.error("device plugin socket cannot be made", error=str(error))
            return None
        self._refusals = 0
        self._registered(True)
        _log.info("registered with the kubelet", resources=[p.resource for p in plugins])
        return kubelet

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        words = f"{error.code().name}: {error.details()}"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            _log.info("kubelet is not there yet", error=words)
            return
        self._refusals += 1
        _log.error("kubelet refused the registration", error=words, times=self._refusals)
        if self._refusals >= _REFUSALS_BELIEVED:
            raise RegistrationRefused(words)

    async def _serve(self, plugin: DevicePlugin) -> Path:
        self._generation += 1
        suffix = plugin.resource.rpartition("/")[2].lower()
        path = self._directory / f"{_PREFIX}{suffix}-{os.getpid()}-{self._generation}.sock"
        server = grpc.aio.server()
        api_pb2_grpc.add_DevicePluginServicer_to_server(plugin, server)
        try:
            server.add_insecure_port(f"unix://{path}")
        except RuntimeError as error:
            raise OSError(f"{path}: {error}") from error
        await server.start()
        self._servers[path] = server
        with suppress(FileNotFoundError):
            path.chmod(0o600)
        async with grpc.aio.insecure_channel(f"unix://{path}", options=_AUTHORITY) as channel:
            await api_pb2_grpc.DevicePluginStub(channel).GetDevicePluginOptions(api.Empty(), timeout=_DIAL_S)
        return path

    async def _register(self, plugin: DevicePlugin, socket: Path) -> None:
        request = api.RegisterRequest(
            version=_VERSION, endpoint=socket.name, resource_name=plugin.resource, options=options(plugin.resource)
        )
        async with grpc.aio.insecure_channel(f"unix://{self._kubelet}", options=_AUTHORITY) as channel:
            await api_pb2_grpc.RegistrationStub(channel).Register(request, timeout=_REGISTER_S)

    async def _until_broken(self, kubelet: Identity) -> None:
        while not self._stream_lost and _identity(self._kubelet) == kubelet and all(map(_identity, self._servers)):
            await self._woken(_POLL_S)
        _log.info("registration is lost", stream_ended=self._stream_lost, new_kubelet=_identity(self._kubelet) != kubelet)

    async def _new_kubelet(self, known: Identity, *, within: float) -> bool:
        deadline = asyncio.get_running_loop().time() + within
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            if _identity(self._kubelet) not in (known, None):
                return True
            await self._woken(left)
        return _identity(self._kubelet) not in (known, None)

    async def _woken(self, within: float) -> None:
        await woken(self._wake, within=within)
        self._wake.clear()

    async def _watch(self) -> None:
        while True:
            try:
                async for _ in watchfiles.awatch(
                    self._directory, watch_filter=None, recursive=False, debounce=20, step=10, raise_interrupt=False
                ):
                    self._wake.set()
            except (OSError, RuntimeError) as error:
                _log.warning("directory cannot be watched; it is polled", path=str(self._directory), error=str(error))
            await asyncio.sleep(_POLL_S)

    async def _stop(self) -> None:
        servers, self._servers = self._servers, {}
        if servers:
            await asyncio.gather(*(server.stop(0) for server in servers.values()))
        with suppress(FileNotFoundError):
            for path in self._directory.glob(f"{_PREFIX}*.sock"):
                path.unlink(missing_ok=True)


def _identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_dev, found.st_ctime_ns) if stat.S_ISSOCK(found.st_mode) else None
