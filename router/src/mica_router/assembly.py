"""The relay of one process, put together from settings: context, server, tiers, resume, metrics of engines."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping

from mica_router.core.engines import Endpoint
from mica_router.core.resume.book import Book
from mica_router.core.routes import RouteTable
from mica_router.core.tier_chooser import TierChooser, needs_metrics
from mica_router.metrics import RouterMetrics
from mica_router.ports import Counts
from mica_router.relay.budget import Budget
from mica_router.relay.context import RelayContext
from mica_router.relay.load import Load
from mica_router.relay.pool import Pool
from mica_router.relay.server import RelayServer
from mica_router.scraping import EngineMetrics, HttpMetricsPort
from mica_router.settings import RouterSettings
from mica_router.tls import ServerTls
from mica_runtime.settings import SettingsError


class Relay:
    """What one process relays with. `publish` gives it a table; `serve` runs until cancelled, then drains."""

    def __init__(self, settings: RouterSettings, *, counts: Counts | None = None) -> None:
        clock = time.monotonic
        self._settings = settings
        tls = engine_tls(settings)
        self.engine_metrics = EngineMetrics(HttpMetricsPort(tls=tls), clock=clock, interval=settings.scrape_interval)
        self.chooser = TierChooser(
            rates=lambda service, tier: self.engine_metrics.rates((service, tier)),
            stale=settings.stale_metrics(),
        )
        load = Load(clock, counts=counts, rules=settings.health_rules())
        load.gauges_of = self.engine_metrics.gauges
        self.context = RelayContext(
            clock=clock,
            load=load,
            metrics=RouterMetrics(),
            pool=Pool(clock=clock, tls=tls),
            limits=settings.limits(),
            timeouts=settings.timeouts(),
            budget=Budget(settings.max_buffered_bytes // settings.workers),
            chooser=self.chooser,
            book=Book(each=settings.resume_bytes, together=settings.resume_total_bytes // settings.workers),
            retry_after=settings.retry_after,
            access_log_sample=settings.access_log_sample,
        )
        self.server = RelayServer(self.context)
        self.synced = False

    def publish(self, table: RouteTable) -> None:
        """Use this table."""
        self.server.publish(table)
        self.engine_metrics.follow(metric_groups(table))
        self.synced = True

    async def scrape(self) -> None:
        """Ask engines for their metrics until cancelled."""
        await self.engine_metrics.run()


def engine_tls(settings: RouterSettings) -> ssl.SSLContext | None:
    """Trust in engines that speak TLS; None: the system's. Raises SettingsError."""
    if settings.engine_ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=settings.engine_ca_file)
    except OSError as error:
        raise SettingsError(f"MICA_ENGINE_CA_FILE cannot be used: {settings.engine_ca_file}: {error}") from error


def client_tls(settings: RouterSettings) -> ServerTls | None:
    """The certificate for clients; None: plain HTTP. Raises SettingsError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    try:
        return ServerTls(settings.tls_cert_file, settings.tls_key_file)
    except OSError as error:
        raise SettingsError(f"MICA_TLS_CERT_FILE and MICA_TLS_KEY_FILE cannot be used: {error}") from error


def metric_groups(table: RouteTable) -> Mapping[Endpoint, tuple[object, str]]:
    """Engines whose metrics decide something, by what is learned together: a tier of a service."""
    return {
        engine.endpoint: (route.service.key, engine.tier)
        for route in table.by_key.values()
        # Who moved here from sysHAX reads its JSON view, which shows tiers that have nothing to decide as well.
        if needs_metrics(route.service.engines) or route.service.routing.decider is not None
        for engine in route.service.engines
    }
