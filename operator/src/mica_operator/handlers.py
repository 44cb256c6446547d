"""Kopf's side of the operator: it tells which objects there are and when something happened. Decides nothing.

Registered on a registry of its own, so that importing this module has no effect.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import kopf

from mica_api import names
from mica_api.models.common import WantedCondition
from mica_operator.loop import LoopSet, Wakeups
from mica_operator.reconcile import PoolReconciler, ServiceReconciler
from mica_runtime.kube import KubeClient

SERVICE: Final = "InferenceService"
POOL: Final = "VGPUPool"
_SERVICES: Final = (names.GROUP, names.VERSION, "inferenceservices")
_POOLS: Final = (names.GROUP, names.VERSION, "vgpupools")
_DELETED: Final = "DELETED"
_ON_THE_WAY: Final = frozenset({"Pending", "NotPlaced", "Starting", "ScaledToZero"})


class KopfEvents:
    """EventSink by kopf's poster, which retries in the background."""

    def announce(self, body: Mapping[str, Any], condition: WantedCondition) -> None:
        """See EventSink."""
        kind = "Normal" if condition.status == "True" or condition.reason in _ON_THE_WAY else "Warning"
        # An event's message is bounded by 1024 bytes, a condition's is not.
        kopf.event(kopf.Body(cast("kopf.RawBody", body)), type=kind, reason=condition.reason, message=condition.message[:1000])


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the handlers call."""

    loops: LoopSet
    wakeups: Wakeups
    services: ServiceReconciler
    pools: PoolReconciler
    client: KubeClient

    def registry(self) -> kopf.OperatorRegistry:
        """All handlers, registered. None of them makes kopf put a finalizer on an object."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.event(*_SERVICES, registry=registry, id="look")(self._service_changed)
        kopf.on.event(*_POOLS, registry=registry, id="look")(self._pool_changed)
        for group, version, plural in (("", "v1", "pods"), ("", "v1", "services"), ("apps", "v1", "deployments")):
            kopf.on.event(
                group, version, plural, registry=registry, id="wake-owner", labels={names.LABEL_INFERENCE_SERVICE: kopf.PRESENT}
            )(self._child_changed)
        return registry

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        server, session = await self.client.open_session()
        return kopf.AiohttpSession(server=server, aiohttp_session=session)

    async def _service_changed(self, namespace: str | None, name: str | None, **event: Any) -> None:
        where, what = str(namespace), str(name)
        key = (SERVICE, f"{where}/{what}")

        async def step() -> bool:
            await self.services.names.wait_synced()
            return await self.services.step(where, what)

        if event["type"] == _DELETED:
            self.loops.end(key)
            self.services.forget(where, what)
        else:
            self.loops.look(key, step)

    async def _pool_changed(self, name: str | None, **event: Any) -> None:
        what = str(name)

        async def step() -> bool:
            await self.pools.inventory.wait_synced()
            return await self.pools.step(what)

        if event["type"] == _DELETED:
            self.loops.end((POOL, what))
        else:
            self.loops.look((POOL, what), step)
        self.wakeups.wake((POOL, ""))

    async def _child_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        self.wakeups.wake((SERVICE, f"{namespace}/{labels[names.LABEL_INFERENCE_SERVICE]}"))


def kopf_settings() -> kopf.OperatorSettings:
    """Settings of kopf: our names, bounded waiting, no peering, no scanning for kinds, no logs as events.

    The finalizer is named only so that it is taken from objects of older versions.
    """
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = names.FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP, key="last-handled")
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 600
    for kind in ("v1/pods", "v1/services", "apps/v1/deployments"):
        settings.watching.label_selectors[kind] = names.LABEL_INFERENCE_SERVICE
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 0.2
    settings.posting.loggers = False
    settings.posting.level = logging.WARNING
    settings.posting.reporting_component = names.MANAGER_OPERATOR
    settings.posting.event_name_prefix = f"{names.MANAGER_OPERATOR}-"
    return settings
