"""Routes from the cluster: InferenceServices say what is served, EndpointSlices say where it is ready. Reads only."""

from __future__ import annotations

import asyncio

from mica_api.names import API_VERSION, LABEL_INFERENCE_SERVICE
from mica_router.core.routes import EMPTY_TABLE, RouteTable, build_table
from mica_router.ports import Publish
from mica_router.sources.cluster_objects import (
    Declared,
    EngineSet,
    join_services,
    read_endpoint_slice,
    read_inference_service,
)
from mica_runtime.logging import get_logger
from mica_runtime.reflector import Change, Reflector, Source

SERVICES_PATH = f"/apis/{API_VERSION}/inferenceservices"
SLICES_PATH = "/apis/discovery.k8s.io/v1/endpointslices"
_log = get_logger(__name__)


class ClusterRouteSource:
    """`RouteSource` over two reflectors. Publishes once both are synced, then after every burst of changes.

    While the API server is away the last table stays in use.
    """

    def __init__(self, source: Source) -> None:
        self._changed = asyncio.Event()
        self._services = Reflector[Declared](
            source, path=SERVICES_PATH, decode=read_inference_service, on_change=self._on_service
        )
        self._engines = Reflector[EngineSet](
            source,
            path=SLICES_PATH,
            decode=read_endpoint_slice,
            on_change=self._on_engines,
            params={"labelSelector": LABEL_INFERENCE_SERVICE},
        )

    async def run(self, publish: Publish) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._engines.run())
            group.create_task(self._publish(publish))

    async def _publish(self, publish: Publish) -> None:
        await self._services.wait_synced()
        await self._engines.wait_synced()
        published: RouteTable | None = None
        while True:
            self._changed.clear()
            table = build_table(join_services(self._services.objects.values(), self._engines.objects.values()))
            if table != published:
                publish(table)
                _log_change(published or EMPTY_TABLE, table)
                published = table
            await self._changed.wait()

    def _on_service(self, change: Change[Declared]) -> None:
        if change.old != change.new:
            self._changed.set()

    def _on_engines(self, change: Change[EngineSet]) -> None:
        if change.old != change.new:
            self._changed.set()


def _log_change(old: RouteTable, new: RouteTable) -> None:
    for key, route in new.by_key.items():
        before = old.by_key.get(key)
        if before != route:
            _log.info(
                "route changed",
                service=key.qualified,
                model=route.public_name,
                engines=[endpoint.authority for endpoint in route.service.endpoints],
            )
    for key in old.by_key.keys() - new.by_key.keys():
        _log.info("route removed", service=key.qualified)
