"""What the kubelet says about who holds which device ids: PodResources over gRPC, and its checkpoint file.

PodResources is the interface; the checkpoint is the kubelet's private format and only a cross-check (it alone has pod uids and
init containers). When the checkpoint's shape changes, ``read_checkpoint`` says so and the agent goes on without it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from mica_api import names
from mica_device_plugin._kubelet.deviceplugin_v1beta1 import api_pb2 as plugin_api
from mica_device_plugin._kubelet.podresources_v1 import api_pb2, api_pb2_grpc
from mica_device_plugin.values import Holder, SliceKey, slice_key

_DEADLINE_S: Final = 5.0
_MESSAGE_LIMIT: Final = 16 * 2**20


class KubeletUnavailable(RuntimeError):
    """The kubelet does not answer; the message says how."""


class InvalidCheckpoint(ValueError):
    """The checkpoint does not have the shape that we know."""


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One container's slots in the checkpoint; ``host_paths`` are the mounts that Allocate answered with."""

    pod_uid: str
    container: str
    key: SliceKey
    host_paths: tuple[str, ...]


class KubeletState(Protocol):
    """The two sources. Tests pass their own."""

    async def assignments(self) -> dict[SliceKey, Holder]:
        """Holders of slots by key, of active pods, without init containers. Raises KubeletUnavailable."""
        ...

    async def checkpoint(self) -> tuple[CheckpointEntry, ...]:
        """Entries for our slots, also of pods that are gone. Raises InvalidCheckpoint."""
        ...


class LocalKubelet:
    """The kubelet of this node."""

    def __init__(self, *, socket: Path, checkpoint: Path) -> None:
        self._socket = socket
        self._checkpoint = checkpoint

    async def assignments(self) -> dict[SliceKey, Holder]:
        """As in KubeletState. A channel per call: one that outlives a kubelet restart would back off for seconds."""
        options = (("grpc.max_receive_message_length", _MESSAGE_LIMIT), ("grpc.default_authority", "localhost"))
        async with grpc.aio.insecure_channel(f"unix://{self._socket}", options=options) as channel:
            stub = api_pb2_grpc.PodResourcesListerStub(channel)
            try:
                answer = await stub.List(api_pb2.ListPodResourcesRequest(), timeout=_DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                raise KubeletUnavailable(f"PodResources: {error.code().name} {error.details()}") from error
        return holders(answer.pod_resources)

    async def checkpoint(self) -> tuple[CheckpointEntry, ...]:
        """As in KubeletState. The file is small and local."""
        try:
            data = self._checkpoint.read_bytes()
        except OSError as error:
            raise InvalidCheckpoint(f"{self._checkpoint}: {error.strerror}") from error
        return read_checkpoint(data)


def holders(pods: Iterable[api_pb2.PodResources]) -> dict[SliceKey, Holder]:
    """Holders by key. The kubelet lists one entry per id, so the ids of a container are joined first."""
    found: dict[SliceKey, Holder] = {}
    for pod in pods:
        for container in pod.containers:
            ours = [d for d in container.devices if d.resource_name == names.RESOURCE_NUMBER]
            ids = {identifier for device in ours for identifier in device.device_ids}
            if ids:
                found[slice_key(ids)] = Holder(pod.namespace, pod.name, container.name)
    return found


def read_checkpoint(data: bytes) -> tuple[CheckpointEntry, ...]:
    """Entries of our slot resource. Raises InvalidCheckpoint when the shape is not the known one."""
    try:
        raw: Any = json.loads(data)
        entries = raw["Data"]["PodDeviceEntries"] or []
        return tuple(_entry(e) for e in entries if e["ResourceName"] == names.RESOURCE_NUMBER)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, DecodeError) as error:
        raise InvalidCheckpoint(f"unknown shape: {error!r}") from error


def _entry(raw: Any) -> CheckpointEntry:
    ids = {str(identifier) for per_node in raw["DeviceIDs"].values() for identifier in per_node}
    return CheckpointEntry(str(raw["PodUID"]), str(raw["ContainerName"]), slice_key(ids), _host_paths(raw.get("AllocResp") or ""))


def _host_paths(encoded: str) -> tuple[str, ...]:
    try:
        answer = plugin_api.ContainerAllocateResponse.FromString(base64.b64decode(encoded, validate=True))
    except binascii.Error as error:
        raise InvalidCheckpoint(f"AllocResp: {error}") from error
    return tuple(mount.host_path for mount in answer.mounts)
