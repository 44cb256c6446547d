"""Admin routes of the router beside the common ones: `GET /demand`, the autoscaler's signal, `/explain`, and sysHAX's view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from mica_router.metrics import ModelDemand
from mica_runtime.http import ReadyChecks, admin_app

Explain = Callable[[str, bytes, Mapping[str, str]], tuple[int, dict[str, Any]]]
"""Path, body and headers of a described request; answers with a status and a JSON object."""


def build_admin(
    *,
    registry: CollectorRegistry,
    ready: ReadyChecks,
    demand: Callable[[], Mapping[str, ModelDemand]],
    explain: Explain | None = None,
    view: Callable[[], dict[str, Any]] | None = None,
) -> FastAPI:
    """The admin application. `demand` is asked at every request."""
    app = admin_app(component="router", registry=registry, ready=ready)

    @app.get("/demand")
    async def get_demand() -> dict[str, dict[str, dict[str, float]]]:
        """Per public model name: requests that engines work on, requests not yet handed to one, seconds the oldest is held."""
        return {"models": {model: asdict(entry) for model, entry in demand().items()}}

    if view is not None:
        _add_view(app, view)
    if explain is not None:
        _add_explain(app, explain)
    return app


def _add_view(app: FastAPI, view: Callable[[], dict[str, Any]]) -> None:
    @app.get("/metrics.json")
    async def get_view() -> dict[str, Any]:
        """Both tiers as sysHAX shows them."""
        return view()


def _add_explain(app: FastAPI, explain: Explain) -> None:
    @app.get("/explain")
    async def get_explain(request: Request, path: str = "/v1/chat/completions") -> Response:
        """Query parameters become the body's fields: `?model=chat&max_tokens=100`."""
        from mica_router.explain import body_of_query

        status, content = explain(path, body_of_query(request.query_params), request.headers)
        return JSONResponse(content, status_code=status)

    @app.post("/explain")
    async def post_explain(request: Request, path: str = "/v1/chat/completions") -> Response:
        """The body is the request itself; nothing is sent to an engine."""
        status, content = explain(path, await request.body(), request.headers)
        return JSONResponse(content, status_code=status)
