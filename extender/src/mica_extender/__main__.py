"""``python -m mica_extender``: puts the parts together and runs them until SIGTERM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from mica_api import names
from mica_api.models.vgpu_pool import VGPUPool
from mica_extender.admin import make_admin
from mica_extender.admission.app import AdmissionApp
from mica_extender.admission.catalogue import CatalogueCache
from mica_extender.admission.rules import Rules
from mica_extender.collection import keep_short
from mica_extender.event_api import KubeEvents
from mica_extender.events import Announcer
from mica_extender.evictor import Evictor
from mica_extender.kube_api import KubeApi
from mica_extender.metrics import Metrics
from mica_extender.placement.kernels import Kernel, KernelMissing, NumpyKernel, load_native
from mica_extender.placement.native_dream import dreams_by
from mica_extender.poke import Poker
from mica_extender.scheduling.app import ALPN, SchedulerApp, named_client_protocol
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.cards import CardChoice
from mica_extender.scheduling.samples import Samples
from mica_extender.scheduling.templates import Templates
from mica_extender.scheduling.verbs import NodeVerbs
from mica_extender.settings import ExtenderSettings
from mica_extender.state.cluster import Cluster
from mica_extender.state.drift import DriftWatch
from mica_extender.state.leadership import AlwaysLeading, LeaseWatch, Takeover
from mica_extender.state.ledger import Ledger
from mica_runtime import logging, service
from mica_runtime.http import TlsFiles, serve
from mica_runtime.kube import KubeClient
from mica_runtime.reflector import Reflector
from mica_runtime.settings import SettingsError

_log = logging.get_logger(__name__)


async def run(settings: ExtenderSettings) -> None:
    """The whole process. Raises SettingsError when the settings cannot work together."""
    lease = _lease_watch(settings)
    metrics = Metrics(CollectorRegistry())
    async with await KubeClient.connect(settings.kubeconfig) as client:
        api = KubeApi(client)
        leadership = Takeover(lease or AlwaysLeading(), lambda: cluster.refresh())
        poker = Poker(api=api, leadership=leadership, metrics=metrics)
        samples = Samples(poker.gain, missed=metrics.missed)
        kernel = choose_kernel(settings.placement_kernel)
        ledger = Ledger(poker.gain, dreamer=dreams_by(kernel))
        metrics.watch_ledger(ledger)
        cluster = Cluster(client, ledger=ledger, lease=lease, namespace=settings.namespace)
        pools_by_name = _whole_pools(client)
        nodes = NodeVerbs(ledger=ledger, kernel=kernel, template=Templates(pools_by_name.objects))
        announcer = Announcer(
            ledger=ledger,
            pods=cluster.pods,
            api=KubeEvents(client),
            leadership=leadership,
            metrics=metrics,
            fits=nodes.fits_somewhere,
        )
        drift = DriftWatch(api=client, ledger=ledger, leadership=leadership, metrics=metrics)
        binder = Binder(
            ledger=ledger,
            pods=cluster.pods,
            api=api,
            leadership=leadership,
            cards=CardChoice(ledger, kernel),
            on_decline=metrics.bind_declined,
        )
        evictor = Evictor(ledger=ledger, pods=cluster.pods, api=api, leadership=leadership, metrics=metrics)
        scheduler = SchedulerApp(
            ledger=ledger,
            nodes=nodes,
            binder=binder,
            leadership=leadership,
            synced=cluster.synced,
            metrics=metrics,
            samples=samples,
        )
        listening: set[str] = set()
        ready = {
            "caches": lambda: cluster.synced() and pools_by_name.synced,
            "certificates": lambda: listening >= {"scheduler", "webhook"},
        }
        await service.run_parts(
            *cluster.parts(),
            keep_short(cluster.synced),
            ledger.learned.run(cluster.synced),
            nodes.renew(),
            leadership.run(),
            poker.run(),
            samples.run(),
            evictor.run(),
            pools_by_name.run(),
            announcer.run(),
            drift.run(),
            _serve_scheduler(settings, scheduler, listening),
            _serve_webhook(settings, AdmissionApp(rules=_rules(settings, ledger), metrics=metrics), listening),
            _serve_admin(settings, make_admin(registry=metrics.registry, ready=ready, ledger=ledger, pods=cluster.pods)),
        )


def _lease_watch(settings: ExtenderSettings) -> LeaseWatch | None:
    if not settings.require_lease:
        return None
    if not settings.pod_name or not settings.namespace:
        raise SettingsError("MICA_POD_NAME and MICA_NAMESPACE are needed to know who leads; or set MICA_REQUIRE_LEASE=false")
    return LeaseWatch(settings.pod_name)


def choose_kernel(wanted: Literal["auto", "numpy"]) -> Kernel:
    """What computes placements; numpy, with a warning, where there is no C kernel for this machine."""
    if wanted == "numpy":
        return NumpyKernel()
    try:
        native = load_native()
    except KernelMissing as missing:
        _log.warning("placements are computed on numpy", reason=str(missing))
        return NumpyKernel()
    _log.info("placements are computed by the C kernel")
    return native


def _whole_pools(client: KubeClient) -> Reflector[VGPUPool]:
    """Pools with everything in them, for nodes that do not exist yet; the ledger keeps only what decides on a hot path."""
    return Reflector(client, path=f"/apis/{names.API_VERSION}/vgpupools", decode=VGPUPool.model_validate_json)


def _rules(settings: ExtenderSettings, ledger: Ledger) -> Callable[[], Rules]:
    """The rules of the moment; only a change of the inventory costs anything."""
    schedulers = frozenset(settings.accepted_schedulers)
    known = CatalogueCache(
        version=lambda: ledger.fleet.layout, nodes=lambda: ((node.name, node.cards) for node in ledger.records())
    )
    return lambda: Rules(schedulers=schedulers, catalogue=known.get(), compute=tuple(pool.compute for pool in ledger.pools()))


async def _serve_scheduler(settings: ExtenderSettings, app: SchedulerApp, listening: set[str]) -> None:
    await serve(
        app,
        host=settings.scheduler_host,
        port=settings.scheduler_port,
        tls=TlsFiles(settings.scheduler_tls_dir, client_ca=True),
        protocol=named_client_protocol(settings.scheduler_client_name, app.respond, app.at_once),
        alpn=ALPN,
        on_listening=lambda: listening.add("scheduler"),
    )


async def _serve_webhook(settings: ExtenderSettings, app: AdmissionApp, listening: set[str]) -> None:
    await serve(
        app,
        host=settings.webhook_host,
        port=settings.webhook_port,
        tls=TlsFiles(settings.webhook_tls_dir, client_ca=False),
        on_listening=lambda: listening.add("webhook"),
    )


async def _serve_admin(settings: ExtenderSettings, app: FastAPI) -> None:
    await serve(app, host=settings.admin_host, port=settings.admin_port)


async def _start() -> None:
    settings = ExtenderSettings.from_environment()
    logging.configure(component="extender", level=settings.log_level)
    await run(settings)


def main() -> None:
    """Entry point."""
    service.main("extender", _start, settings=ExtenderSettings)


if __name__ == "__main__":
    main()
