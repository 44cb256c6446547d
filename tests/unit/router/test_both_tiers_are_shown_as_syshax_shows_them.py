"""`GET /metrics.json`: the JSON that sysHAX's users read."""

from __future__ import annotations

from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from mica_router.admin import build_admin
from mica_router.core.choice import EngineGauges
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.json_metrics import metrics_view

G1, G2, C1 = Endpoint("g", 1), Endpoint("g", 2), Endpoint("c", 1)
TABLE = build_table(
    [
        Service(
            key=ServiceKey("default", "chat"),
            model="chat",
            engines=(Engine(endpoint=G1), Engine(endpoint=G2), Engine(endpoint=C1, tier="cpu")),
        )
    ]
)


def test_tiers_are_summed_and_what_is_unknown_is_zero() -> None:
    said = {
        G1: EngineGauges(age=1.0, running=3, waiting=1, swapped=0, kv_percent=40.0, prompt_rate=10.0, generation_rate=20.0),
        G2: EngineGauges(age=4.0, running=1, kv_percent=20.0, generation_rate=5.5),
    }
    view = metrics_view(TABLE, gauges=said.get, now=100.0, ratio=3.5)
    assert view["gpu"] == {
        "engines": 2,
        "cache_usage": 30.0,
        "num_running": 4,
        "num_waiting": 1,
        "num_swapped": 0,
        "prompt_throughput": 10.0,
        "generation_throughput": 25.5,
    }
    assert view["cpu"] == dict.fromkeys(view["gpu"], 0)
    assert view["system"] == {"last_update": 96.0, "performance_ratio": 3.5}


def test_the_admin_port_serves_it() -> None:
    def view() -> dict[str, object]:
        return metrics_view(TABLE, gauges=lambda endpoint: None, now=1.0, ratio=None)

    with TestClient(build_admin(registry=CollectorRegistry(), ready={}, demand=dict, view=view)) as client:
        answer = client.get("/metrics.json")
    assert answer.json()["system"] == {"last_update": None, "performance_ratio": None}
    assert set(answer.json()) == {"gpu", "cpu", "system"}
