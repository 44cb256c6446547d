"""Admin routes of the router beside the common ones: `GET /demand`, the autoscaler's signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from mica_router.metrics import ModelDemand
from mica_runtime.http import ReadyChecks, admin_app


def build_admin(*, registry: CollectorRegistry, ready: ReadyChecks, demand: Callable[[], Mapping[str, ModelDemand]]) -> FastAPI:
    """The admin application. `demand` is asked at every request."""
    app = admin_app(component="router", registry=registry, ready=ready)

    @app.get("/demand")
    async def get_demand() -> dict[str, dict[str, dict[str, float]]]:
        """Per public model name: requests that engines work on, requests not yet handed to one, seconds the oldest is held."""
        return {"models": {model: asdict(entry) for model, entry in demand().items()}}

    return app
