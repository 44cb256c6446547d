"""The router process: settings in, parts wired together, ended when its streams have ended or the drain's time is over."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import time
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector

from mica_router.admin import Explain, build_admin
from mica_router.assembly import Relay, client_tls, engine_tls, metric_groups
from mica_router.core.engines import Endpoint
from mica_router.core.readiness import can_serve
from mica_router.core.routes import RouteTable
from mica_router.core.tier_chooser import TierChooser
from mica_router.explain import explain_request
from mica_router.exposition import RouterCollector, Snapshot, take_snapshot
from mica_router.hot import NATIVE
from mica_router.json_metrics import metrics_view
from mica_router.metrics import ModelDemand
from mica_router.ports import RouteSource, RouteSourceError
from mica_router.probing import Prober
from mica_router.relay.pool import Pool
from mica_router.relay.side_call import SideCalls
from mica_router.scraping import EngineMetrics, HttpMetricsPort
from mica_router.settings import RouterSettings
from mica_router.sources.file import FileRouteSource
from mica_router.workers.supervisor import Supervisor
from mica_router.workers.view import SupervisorView
from mica_runtime import logging
from mica_runtime.http import ReadyChecks, serve
from mica_runtime.service import run_parts
from mica_runtime.settings import SettingsError

_log = logging.get_logger(__name__)


class SingleProcess:
    """Relay, admin and routes in one process and one loop. Raises SettingsError for a certificate that cannot be used."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.relay = Relay(settings)
        self._tls = client_tls(settings)

    async def serve_data(self, drained: asyncio.Event) -> None:
        """Relay until cancelled, then drain, and say so. Raises SettingsError when the address cannot be had."""
        try:
            await self._listen_and_drain()
        finally:
            drained.set()

    async def _listen_and_drain(self) -> None:
        settings, server = self._settings, self.relay.server
        try:
            await server.start(host=settings.host, port=settings.port, tls=self._tls.context if self._tls else None)
        except OSError as error:
            raise SettingsError(f"MICA_HOST and MICA_PORT: cannot listen on {settings.host}:{settings.port}: {error}") from error
        _log.info("serving", host=settings.host, port=server.port)
        try:
            await asyncio.Event().wait()
        finally:
            cut = await server.drain(seconds=settings.drain_timeout)
            _log.info("drained", connections_cut=cut)

    async def follow_certificate(self) -> None:
        """Keep the certificate current."""
        if self._tls is not None:
            await self._tls.follow()
        await asyncio.Event().wait()


async def run_single(settings: RouterSettings, source: RouteSource) -> None:
    """One process, until SIGTERM."""
    single, drained = SingleProcess(settings), asyncio.Event()
    relay = single.relay
    context = relay.context

    def snapshot() -> Snapshot:
        return take_snapshot(context)

    await run_parts(
        single.serve_data(drained),
        source.run(relay.publish),
        relay.scrape(),
        single.follow_certificate(),
        _probe(
            settings,
            context.side_calls,
            table=lambda: context.table,
            found=lambda endpoint, alive: context.load.health.probed(endpoint, alive=alive),
        ),
        _serve_admin(
            settings,
            snapshot=snapshot,
            ready={
                "routes": lambda: relay.synced,
                "accepting": lambda: not context.draining,
                "engines": lambda: can_serve(context.table, context.load.fitness),
            },
            demand=lambda: context.load.demand(context.table),
            explain=lambda path, body, headers: explain_request(
                path, body, headers, table=context.table, chooser=relay.chooser, load=context.load
            ),
            view=lambda: metrics_view(context.table, gauges=context.load.gauges, now=time(), ratio=settings.performance_ratio),
            drained=drained,
        ),
        grace=settings.drain_timeout + 1.5,
    )


async def run_supervised(settings: RouterSettings, source: RouteSource) -> None:
    """Several workers, until SIGTERM. Raises SettingsError for what every worker would stumble over again and again."""
    client_tls(settings)
    supervisor, drained = Supervisor(settings), asyncio.Event()
    clock = asyncio.get_running_loop().time
    pool = Pool(clock=clock, tls=engine_tls(settings))
    calls = SideCalls(pool)
    # Workers ask engines for themselves; this copy is for `/explain` and `/metrics.json`.
    engine_metrics = EngineMetrics(HttpMetricsPort(tls=engine_tls(settings)), clock=clock, interval=settings.scrape_interval)
    chooser = TierChooser(
        rates=lambda service, tier: engine_metrics.rates((service, tier)),
        stale=settings.stale_metrics(),
    )
    load = SupervisorView(supervisor, gauges_of=engine_metrics.gauges)

    def publish(table: RouteTable) -> None:
        supervisor.publish(table)
        pool.keep_only(table.endpoints())
        engine_metrics.follow(metric_groups(table))

    await run_parts(
        _supervise(supervisor, drained),
        source.run(publish),
        engine_metrics.run(),
        _probe(settings, calls, table=lambda: supervisor.table, found=supervisor.probed),
        _serve_admin(
            settings,
            snapshot=supervisor.snapshot,
            ready={
                "routes": lambda: supervisor.synced,
                "workers": lambda: supervisor.listening,
                "accepting": lambda: not supervisor.draining,
                "engines": lambda: can_serve(supervisor.table, supervisor.fitness()),
            },
            demand=lambda: supervisor.snapshot().demand,
            explain=lambda path, body, headers: explain_request(
                path, body, headers, table=supervisor.table, chooser=chooser, load=load
            ),
            view=lambda: metrics_view(
                supervisor.table, gauges=engine_metrics.gauges, now=time(), ratio=settings.performance_ratio
            ),
            drained=drained,
        ),
        grace=settings.drain_timeout + 1.5,
    )


async def _supervise(supervisor: Supervisor, drained: asyncio.Event) -> None:
    try:
        await supervisor.run()
    finally:
        _log.info("drained")
        drained.set()


async def _probe(
    settings: RouterSettings,
    calls: SideCalls,
    *,
    table: Callable[[], RouteTable],
    found: Callable[[Endpoint, bool], None],
) -> None:
    if not settings.probe_interval:
        await asyncio.Event().wait()
    prober = Prober(
        calls,
        endpoints=lambda: table().endpoints(),
        found=found,
        interval=settings.probe_interval,
        deadline=settings.probe_timeout,
    )
    await prober.run()


async def _serve_admin(
    settings: RouterSettings,
    *,
    snapshot: Callable[[], Snapshot],
    ready: ReadyChecks,
    demand: Callable[[], Mapping[str, ModelDemand]],
    explain: Explain,
    view: Callable[[], dict[str, Any]],
    drained: asyncio.Event,
) -> None:
    """Health, metrics, demand, explain. Cancelled, it goes on until it has `drained`: streams still count as demand."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(RouterCollector(snapshot))
    if settings.performance_ratio is not None:
        told = "How many times the GPU tier was ahead of the CPU tier, in a request to each before the start."
        Gauge("mica_router_performance_ratio", told, registry=registry).set(settings.performance_ratio)
    app = build_admin(registry=registry, ready=ready, demand=demand, explain=explain, view=view)
    serving = asyncio.create_task(serve(app, host=settings.host, port=settings.admin_port))
    try:
        await asyncio.shield(serving)
    finally:
        if not serving.done():
            await drained.wait()
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


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
    if not NATIVE:
        _log.info("events are passed on in Python: the part in C was not built for this machine (`make kernel`)")
    gc.freeze()  # what was imported lives as long as the process: no collection has to look at it again
    run = run_single if settings.workers == 1 else run_supervised
    try:
        await run(settings, source)
    except RouteSourceError as error:
        _log.error("the routes cannot be used", error=str(error))
        raise SystemExit(2) from error
