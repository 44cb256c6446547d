"""Kubernetes Events about pods: the same words as the refusal, once per pod, container and reason. Lost ones are not retried."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from mica_api import names
from mica_device_plugin.cluster import Cluster
from mica_device_plugin.values import RefusalRecord
from mica_runtime.kube import KubeError
from mica_runtime.logging import get_logger

_QUEUE: Final = 256
_REMEMBERED: Final = 4096
_NOT_REFUSED: Final = frozenset({"DecisionChanged", "ComputeNotApplied"})
"""Reasons of warnings about pods that run."""
_log = get_logger(__name__)


class EventReporter:
    """Collects warnings without blocking and posts them from its own task."""

    def __init__(self, *, cluster: Cluster, node_name: str, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._node_name = node_name
        self._now = now
        self._queue: asyncio.Queue[RefusalRecord] = asyncio.Queue(_QUEUE)
        self._said: dict[RefusalRecord, None] = {}

    def warn(self, pod: RefusalRecord) -> None:
        """Say it unless it was said already."""
        if pod in self._said or self._queue.full():
            return
        self._said[pod] = None
        if len(self._said) > _REMEMBERED:
            del self._said[next(iter(self._said))]
        self._queue.put_nowait(pod)

    async def run(self) -> None:
        """Post events until cancelled."""
        while True:
            record = await self._queue.get()
            try:
                await self._cluster.create_event(record.namespace, event_body(record, self._node_name, self._now()))
            except KubeError as error:
                _log.warning("event cannot be posted", pod=record.pod, error=str(error))


def event_body(record: RefusalRecord, node_name: str, now: datetime) -> dict[str, Any]:
    """core/v1 Event about the pod."""
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    reason = record.reason if record.reason in _NOT_REFUSED else f"SliceRefused{record.reason}"
    field = {"fieldPath": f"spec.containers{{{record.container}}}"} if record.container else {}
    involved = {"apiVersion": "v1", "kind": "Pod", "namespace": record.namespace, "name": record.pod, "uid": record.pod_uid}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{record.pod[:200]}.{secrets.token_hex(8)}", "namespace": record.namespace},
        "involvedObject": involved | field,
        "reason": reason,
        "message": record.message,
        "type": "Warning",
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": names.MANAGER_NODE_AGENT, "host": node_name},
        "reportingComponent": names.MANAGER_NODE_AGENT,
        "reportingInstance": node_name,
    }
