"""The router process: settings in, parts wired together, ended within two seconds of a signal."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from mica_router.admin import build_admin
from mica_router.core.routes import RouteTable
from mica_router.exposition import RouterCollector, take_snapshot
from mica_router.metrics import RouterMetrics
from mica_router.ports import RouteSource, RouteSourceError
from mica_router.relay.budget import Budget
from mica_router.relay.context import RelayContext
from mica_router.relay.load import Load
from mica_router.relay.pool import Pool
from mica_router.relay.server import RelayServer
from mica_router.settings import RouterSettings
from mica_router.sources.file import FileRouteSource
from mica_runtime import logging
from mica_runtime.http import serve
from mica_runtime.service import run_parts
from mica_runtime.settings import SettingsError

_DRAIN_SECONDS = 1.0
_log = logging.get_logger(__name__)


class Router:
    """The parts of one process and what they share."""

    def __init__(self, settings: RouterSettings, source: RouteSource) -> None:
        clock = asyncio.get_running_loop().time
        self._settings = settings
        self._source = source
        self._synced = False
        self.context = RelayContext(
            clock=clock,
            load=Load(clock),
            metrics=RouterMetrics(),
            pool=Pool(clock=clock),
            limits=settings.limits(),
            timeouts=settings.timeouts(),
            budget=Budget(settings.max_buffered_bytes),
            retry_after=settings.retry_after,
        )
        self.server = RelayServer(self.context)

    async def serve_data(self) -> None:
        """Relay until cancelled, then drain."""
        await self.server.start(host=self._settings.host, port=self._settings.port)
        _log.info("serving", host=self._settings.host, port=self.server.port)
        try:
            await asyncio.Event().wait()
        finally:
            cut = await self.server.drain(seconds=_DRAIN_SECONDS)
            _log.info("drained", connections_cut=cut)

    async def follow_routes(self) -> None:
        """Keep the table current."""
        await self._source.run(self._publish)

    def _publish(self, table: RouteTable) -> None:
        self.server.publish(table)
        self._synced = True

    async def serve_admin(self) -> None:
        """Health, metrics and demand."""
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        context = self.context
        registry.register(RouterCollector(lambda: take_snapshot(context)))
        app = build_admin(
            registry=registry,
            ready={"routes": lambda: self._synced, "accepting": lambda: not context.draining},
            demand=lambda: context.load.demand(context.table),
        )
        await serve(app, host=self._settings.host, port=self._settings.admin_port)


async def start() -> None:
    """Run the router as the environment says."""
    settings = RouterSettings.from_environment()
    logging.configure(component="router", level=settings.log_level)
    if settings.routes == "file":
        assert settings.routes_file is not None, "settings check this"
        await _run(settings, FileRouteSource(settings.routes_file))
        return
    # Imported here, because the Kubernetes client is half of the start-up time and a stand-alone router does not need it.
    from kubernetes.aio.config import ConfigException

    from mica_router.sources.cluster import ClusterRouteSource
    from mica_runtime.kube import KubeClient

    try:
        client = await KubeClient.connect(settings.kubeconfig)
    except (ConfigException, OSError) as error:
        raise SettingsError(
            f"no cluster to read routes from: {error}. Outside a pod set MICA_KUBECONFIG, "
            "or set MICA_ROUTES=file and MICA_ROUTES_FILE"
        ) from error
    async with client:
        await _run(settings, ClusterRouteSource(client))


async def _run(settings: RouterSettings, source: RouteSource) -> None:
    router = Router(settings, source)
    try:
        await run_parts(router.serve_data(), router.follow_routes(), router.serve_admin())
    except RouteSourceError as error:
        _log.error("the routes cannot be used", error=str(error))
        raise SystemExit(2) from error
