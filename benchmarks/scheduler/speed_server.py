"""The extender of the speed benchmark: its ASGI application, watches and settings of uvicorn, over HTTP on loopback.

usage: python -m benchmarks.scheduler.speed_server API_PORT PORT ADMIN_PORT auto|numpy

All that differs from ``python -m mica_extender`` is that there is no TLS and no Lease, and that binds have nowhere to go.
"""

from __future__ import annotations

import sys

import uvloop
from kubernetes.aio.client import Configuration
from prometheus_client import CollectorRegistry

from mica_extender.__main__ import choose_kernel
from mica_extender.admin import make_admin
from mica_extender.collection import keep_short
from mica_extender.kube_api import KubeApi
from mica_extender.metrics import Metrics
from mica_extender.placement.native_dream import dreams_by
from mica_extender.scheduling.app import SchedulerApp
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.verbs import NodeVerbs
from mica_extender.state.cluster import Cluster
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.ledger import Ledger
from mica_runtime import logging, service
from mica_runtime.http import serve
from mica_runtime.kube import KubeClient


async def main() -> None:
    """Serve until killed."""
    api_port, port, admin_port = (int(word) for word in sys.argv[1:4])
    logging.configure(component="extender", level="warning")
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{api_port}"
    kernel = choose_kernel("numpy" if sys.argv[4] == "numpy" else "auto")
    leadership, metrics, ledger = AlwaysLeading(), Metrics(CollectorRegistry()), Ledger(dreamer=dreams_by(kernel))
    metrics.watch_ledger(ledger)
    async with KubeClient(configuration) as client:
        cluster = Cluster(client, ledger=ledger, lease=None, namespace="")
        binder = Binder(ledger=ledger, pods=cluster.pods, api=KubeApi(client), leadership=leadership)
        nodes = NodeVerbs(ledger=ledger, kernel=kernel)
        app = SchedulerApp(
            ledger=ledger,
            binder=binder,
            leadership=leadership,
            synced=cluster.synced,
            metrics=metrics,
            nodes=nodes,
        )
        ready = {"caches": cluster.synced}
        admin = make_admin(registry=metrics.registry, ready=ready, ledger=ledger, pods=cluster.pods)
        await service.run_parts(
            *cluster.parts(),
            keep_short(cluster.synced),
            ledger.learned.run(cluster.synced),
            nodes.renew(),
            serve(app, host="127.0.0.1", port=port),
            serve(admin, host="127.0.0.1", port=admin_port),
        )


if __name__ == "__main__":
    uvloop.run(main())
