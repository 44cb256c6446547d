"""The admin surface: probes and metrics as everywhere, and ``/explain``. Off every hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, HTTPException, Query
from prometheus_client import CollectorRegistry

from mica_extender.explain import DETAILED_NODES, explain
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord
from mica_runtime.http import ReadyChecks, admin_app

MAX_DETAILED: Final = 500
Detailed = Annotated[int, Query(ge=0, le=MAX_DETAILED)]


def make_admin(*, registry: CollectorRegistry, ready: ReadyChecks, ledger: Ledger, pods: Mapping[str, PodRecord]) -> FastAPI:
    """Application for the admin port."""
    app = admin_app(component="extender", registry=registry, ready=ready)
    one_at_a_time = asyncio.Lock()

    @app.get("/explain/{namespace}/{name}")
    async def explain_pod(namespace: str, name: str, nodes: Detailed = DETAILED_NODES) -> dict[str, Any]:
        pod = pods.get(f"{namespace}/{name}")
        if pod is None:
            raise HTTPException(404, f"{namespace}/{name} is not a pod on slices, or is not known yet")
        async with one_at_a_time:
            return await explain(pod, ledger, detailed=nodes)

    return app
