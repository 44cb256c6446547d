"""Events on the real API server."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final

from mica_api import names
from mica_extender.events import REASON, PodEvent
from mica_runtime.kube import KubeClient, KubeError
from mica_runtime.logging import get_logger

_log = get_logger(__name__)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class KubeEvents:
    """Writes events by server-side apply: one request, whether the event exists or not."""

    def __init__(self, client: KubeClient, now: Callable[[], datetime.datetime] = _now) -> None:
        self._client = client
        self._now = now

    async def write(self, event: PodEvent) -> bool:
        """See EventApi."""
        path = f"/api/v1/namespaces/{event.namespace}/events/{event.name}"
        try:
            await self._client.apply(path, self._body(event), field_manager=names.MANAGER_EXTENDER)
        except KubeError as error:
            _log.warning("event not written", pod=f"{event.namespace}/{event.pod}", error=str(error))
            return False
        return True

    def _body(self, event: PodEvent) -> dict[str, object]:
        now = self._now()
        first = now - datetime.timedelta(seconds=event.first_s_ago)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": event.name, "namespace": event.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": event.namespace,
                "name": event.pod,
                "uid": event.uid,
            },
            "type": "Warning",
            "reason": REASON,
            "message": event.message,
            "source": {"component": names.MANAGER_EXTENDER},
            "count": event.count,
            "firstTimestamp": first.strftime(_TIME),
            "lastTimestamp": now.strftime(_TIME),
        }
