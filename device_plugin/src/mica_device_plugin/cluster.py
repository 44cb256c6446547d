"""The API server as the agent sees it: its pods, its node, the pools, and the objects it writes.

``Cluster`` is the port that the rest of the agent knows; ``ApiCluster`` keeps local copies by list and watch. Decoding reads only
what the agent needs. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from mica_api import names
from mica_api.cpu import ContainerCPU, parse_milli, pod_milli
from mica_api.models import VGPUNode, VGPUPool
from mica_device_plugin.cordon import cordon_annotations
from mica_device_plugin.values import PodView
from mica_runtime.kube import ApiError, KubeClient
from mica_runtime.logging import get_logger
from mica_runtime.reflector import Change, Reflector

_GROUP: Final = f"/apis/{names.API_VERSION}"
_FINISHED: Final = frozenset({"Succeeded", "Failed"})
_CPU: Final = "cpu"
_log = get_logger(__name__)


class NodeView(msgspec.Struct, frozen=True):
    """The part of our own Node that the agent reads; ``cpu_milli`` is None while the kubelet has not said it."""

    uid: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    cpu_milli: int | None = None


class Cluster(Protocol):
    """Local copies and the few calls that the agent makes. Calls raise mica_runtime.kube.KubeError."""

    @property
    def synced(self) -> bool:
        """Whether every local copy is complete."""
        ...

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` in the loop after any copy has changed; it must not block."""
        ...

    async def run(self) -> None:
        """Keep the copies until cancelled."""
        ...

    def pods(self) -> Mapping[str, PodView]:
        """Pods on this node by ``namespace/name``."""
        ...

    def node(self) -> NodeView | None:
        """Our own Node."""
        ...

    def pools(self) -> tuple[VGPUPool, ...]:
        """Every pool."""
        ...

    def stored(self) -> VGPUNode | None:
        """Our VGPUNode as the API server has it."""
        ...

    async def get_pod(self, namespace: str, name: str) -> PodView | None:
        """The pod as stored now; None when there is none."""
        ...

    async def apply_node(self, body: Mapping[str, Any]) -> None:
        """Apply metadata and spec of our VGPUNode."""
        ...

    async def apply_status(self, body: Mapping[str, Any]) -> None:
        """Apply its status."""
        ...

    async def create_event(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Create a core/v1 Event."""
        ...


class ApiCluster:
    """The real API server."""

    def __init__(self, client: KubeClient, *, node_name: str) -> None:
        self._client = client
        self._node_name = node_name
        self._listeners: list[Callable[[], None]] = []

        def changed(_: Change[Any]) -> None:
            for listener in self._listeners:
                listener()

        own = {"fieldSelector": f"metadata.name={node_name}"}
        here = {"fieldSelector": f"spec.nodeName={node_name}"}
        self._pods = Reflector(client, path="/api/v1/pods", decode=decode_pod, on_change=changed, params=here)
        self._nodes = Reflector(client, path="/api/v1/nodes", decode=decode_node, on_change=changed, params=own)
        self._pools = Reflector(client, path=f"{_GROUP}/vgpupools", decode=VGPUPool.model_validate_json, on_change=changed)
        self._stored = Reflector(
            client, path=f"{_GROUP}/vgpunodes", decode=VGPUNode.model_validate_json, on_change=changed, params=own
        )

    @property
    def synced(self) -> bool:
        """As in Cluster."""
        return all(r.synced for r in (self._pods, self._nodes, self._pools, self._stored))

    def on_change(self, listener: Callable[[], None]) -> None:
        """As in Cluster."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """As in Cluster."""
        async with asyncio.TaskGroup() as group:
            for reflector in (self._pods, self._nodes, self._pools, self._stored):
                group.create_task(reflector.run())

    def pods(self) -> Mapping[str, PodView]:
        """As in Cluster."""
        return self._pods.objects

    def node(self) -> NodeView | None:
        """As in Cluster."""
        return self._nodes.objects.get(self._node_name)

    def pools(self) -> tuple[VGPUPool, ...]:
        """As in Cluster."""
        return tuple(self._pools.objects.values())

    def stored(self) -> VGPUNode | None:
        """As in Cluster."""
        return self._stored.objects.get(self._node_name)

    async def get_pod(self, namespace: str, name: str) -> PodView | None:
        """As in Cluster."""
        try:
            return decode_pod(await self._client.request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}"))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def apply_node(self, body: Mapping[str, Any]) -> None:
        """As in Cluster."""
        await self._client.apply(f"{_GROUP}/vgpunodes/{self._node_name}", body, field_manager=names.MANAGER_NODE_AGENT)

    async def apply_status(self, body: Mapping[str, Any]) -> None:
        """As in Cluster."""
        await self._client.apply(f"{_GROUP}/vgpunodes/{self._node_name}/status", body, field_manager=names.MANAGER_NODE_AGENT)

    async def create_event(self, namespace: str, body: Mapping[str, Any]) -> None:
        """As in Cluster."""
        await self._client.post(f"/api/v1/namespaces/{namespace}/events", body)


class _Meta(msgspec.Struct):
    name: str
    uid: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Resources(msgspec.Struct):
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}


class _Container(msgspec.Struct):
    name: str
    resources: _Resources = msgspec.field(default_factory=_Resources)
    restartPolicy: str = ""


class _PodSpec(msgspec.Struct):
    containers: list[_Container]
    initContainers: list[_Container] = []
    nodeName: str = ""
    overhead: dict[str, str] = {}
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _PodStatus(msgspec.Struct):
    phase: str = ""


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _PodSpec
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _NodeStatus(msgspec.Struct):
    allocatable: dict[str, str] = {}


class _Node(msgspec.Struct):
    metadata: _Meta
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


_pod: Final = msgspec.json.Decoder(_Pod).decode
_node: Final = msgspec.json.Decoder(_Node).decode


def decode_pod(raw: bytes) -> PodView:
    """Pod as stored by the API server. Raises msgspec.DecodeError."""
    pod = _pod(raw)
    return PodView(
        uid=pod.metadata.uid,
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        node=pod.spec.nodeName,
        annotations=pod.metadata.annotations,
        containers=tuple((c.name, c.resources.limits) for c in pod.spec.containers),
        finished=pod.status.phase in _FINISHED,
        cpu_milli=_pod_cpu(pod.spec),
        labelled=pod.metadata.labels.get(names.LABEL_SLICE) == names.LABEL_SLICE_VALUE,
    )


def decode_node(raw: bytes) -> NodeView:
    """Node as stored by the API server. Raises msgspec.DecodeError."""
    node = _node(raw)
    return NodeView(
        uid=node.metadata.uid,
        labels=node.metadata.labels,
        annotations=cordon_annotations(node.metadata.annotations),
        cpu_milli=_milli(node.status.allocatable) if _CPU in node.status.allocatable else None,
    )


def _pod_cpu(spec: _PodSpec) -> int:
    return pod_milli(
        apps=[_milli(c.resources.requests) for c in spec.containers],
        inits=[ContainerCPU(_milli(c.resources.requests), c.restartPolicy == "Always") for c in spec.initContainers],
        overhead=_milli(spec.overhead),
        whole=_milli(spec.resources.requests) if _CPU in spec.resources.requests else None,
    )


def _milli(amounts: Mapping[str, str]) -> int:
    """CPU among the amounts. The API server has checked them: one that we cannot read must not hide the pod from the agent."""
    try:
        return parse_milli(amounts.get(_CPU, "0"))
    except ValueError as error:
        _log.warning("amount of CPU is not understood and counts as none", error=str(error))
        return 0
