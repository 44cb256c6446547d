from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from mica_runtime.http import admin_app


@pytest.mark.parametrize(("ready", "live"), [(True, True), (False, True), (True, False)])
async def test_ready_and_alive_are_answered_apart(ready: bool, live: bool) -> None:
    registry = CollectorRegistry()
    Counter("mica_test_things", "Things.", registry=registry).inc()
    app = admin_app(component="test", registry=registry, ready={"cache": lambda: ready}, live={"loop": lambda: live})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://admin") as client:
        readiness, liveness, alias = [await client.get(path) for path in ("/readyz", "/livez", "/healthz")]
        metrics = await client.get("/metrics")
    assert (readiness.status_code, readiness.json()) == (
        (200, {"ready": True, "waitingFor": []}) if ready else (503, {"ready": False, "waitingFor": ["cache"]})
    )
    assert (liveness.status_code, liveness.text) == ((200, "ok") if live else (503, "stuck: loop"))
    assert alias.status_code == liveness.status_code
    assert "mica_test_things_total 1.0" in metrics.text
