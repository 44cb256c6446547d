"""The operator process: parts put together and run until a signal."""

from __future__ import annotations

import asyncio
import logging as std_logging
import time
from typing import Final

import kopf
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from mica_operator.autoscaler import Autoscaler
from mica_operator.cluster import KubePools, KubeServices
from mica_operator.demand import HttpFetch, KubeRouterPods, RouterDemand
from mica_operator.handlers import POOL, SERVICE, Handlers, KopfEvents, kopf_settings
from mica_operator.inventory import NodeInventory
from mica_operator.loop import Loop, LoopSet, Pulse, Wakeups
from mica_operator.metrics import Metrics
from mica_operator.names_index import NamesIndex
from mica_operator.reconcile import PoolReconciler, ServiceReconciler
from mica_operator.settings import OperatorSettings
from mica_runtime import logging
from mica_runtime.http import admin_app, serve
from mica_runtime.kube import KubeClient
from mica_runtime.service import run_parts

DEFAULT_POOL_KEY: Final = (POOL, "")
"""Loop that watches over the existence of a pool; no pool has an empty name."""


async def start() -> None:
    """Run the operator. Raises SettingsError."""
    settings = OperatorSettings.from_environment()
    logging.configure(component="operator", level=settings.log_level)
    # Kopf tells every step of every object at info, and at warning that daemons are cancelled when the process ends.
    std_logging.getLogger("kopf").setLevel(std_logging.WARNING)
    std_logging.getLogger("kopf.objects").setLevel(std_logging.ERROR)
    async with await KubeClient.connect(settings.kubeconfig) as client:
        await _run(settings, client)


async def _run(settings: OperatorSettings, client: KubeClient) -> None:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics = Metrics(registry)
    pulse = Pulse(time.monotonic)
    wakeups = Wakeups()
    inventory = NodeInventory(client, on_change=lambda pool: wakeups.wake((POOL, pool)))
    loop = Loop(wakeups, pulse, metrics, resync_s=settings.resync_s)
    namespace, _, name = settings.router_service.partition("/")
    index = NamesIndex(client, on_change=lambda namespace, name: wakeups.wake((SERVICE, f"{namespace}/{name}")))
    routers = KubeRouterPods(client, namespace=namespace, service=name, port=settings.router_admin_port)
    fetch = HttpFetch()
    autoscaler = Autoscaler(
        RouterDemand(routers, fetch, owner=index.owner),
        clock=time.monotonic,
        wake=lambda key: wakeups.wake((SERVICE, "/".join(key))),
    )
    services = ServiceReconciler(
        cluster=KubeServices(client, router=(namespace, name)),
        images={str(kind): image for kind, image in settings.engine_images.items()},
        events=KopfEvents(),
        metrics=metrics,
        names=index,
        autoscaler=autoscaler,
    )
    pools = PoolReconciler(KubePools(client), inventory)
    loops = LoopSet(loop)
    handlers = Handlers(loops=loops, wakeups=wakeups, services=services, pools=pools, client=client)
    kopf_ready = asyncio.Event()
    ready = {"kopf": kopf_ready.is_set, "inventory": lambda: inventory.synced}
    admin = admin_app(component="operator", registry=registry, ready=ready, live={"loops": pulse.alive})
    # Kopf takes the signals when its tasks are made and ours must win, so they are made before the process's own handlers.
    ours = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=handlers.registry(), settings=kopf_settings(), clusterwide=True, standalone=True, ready_flag=kopf_ready
    )
    async with fetch:
        await run_parts(
            kopf.run_tasks(tasks, ignored=ours),
            loops.run(),
            inventory.run(),
            index.run(),
            autoscaler.run(),
            loop.run(DEFAULT_POOL_KEY, pools.ensure_default),
            serve(admin, host=settings.admin_host, port=settings.admin_port),
        )
