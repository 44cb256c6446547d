"""Counters, gauges and demand say what the data path did and is doing."""

from __future__ import annotations

import asyncio

from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from mica_router.admin import build_admin
from mica_router.exposition import RouterCollector, take_snapshot

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, eventually, post, within


def admin_of(bench: Bench, *, synced: bool = True) -> TestClient:
    context = bench.context
    registry = CollectorRegistry()
    registry.register(RouterCollector(lambda: take_snapshot(context)))
    return TestClient(
        build_admin(registry=registry, ready={"routes": lambda: synced}, demand=lambda: context.load.demand(context.table))
    )


async def test_demand_follows_a_request_from_start_to_end(bench: Bench) -> None:
    go_on = asyncio.Event()

    async def slow(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK_RESPONSE)

    engine = await bench.engine()
    engine.script = slow
    bench.route(engine)
    bench.route(model="idle")

    def demand() -> dict[str, tuple[int, int]]:
        found = bench.context.load.demand(bench.context.table)
        return {model: (entry.in_flight, entry.queued) for model, entry in found.items()}

    assert demand() == {"chat": (0, 0), "idle": (0, 0)}
    client = await bench.client()
    client.send(post(CHAT))
    await eventually(lambda: demand()["chat"] == (0, 1))
    await eventually(lambda: demand()["chat"] == (1, 0))
    await within(engine.arrived.get())
    go_on.set()
    await client.response()
    assert demand()["chat"] == (0, 0)


async def test_metrics_and_demand_are_served(bench: Bench) -> None:
    async def slow(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        bench.clock.advance(0.3)
        writer.write(OK_RESPONSE)

    engine = await bench.engine()
    engine.script = slow
    bench.route(engine)
    await bench.ask(post(CHAT))
    await bench.ask(post(b'{"model": "gpt-9"}'))
    admin = admin_of(bench)
    text = admin.get("/metrics").text
    for line in (
        'mica_router_requests_total{code="200",model="chat"} 1.0',
        'mica_router_requests_total{code="404",model=""} 1.0',
        'mica_router_in_flight_requests{model="chat"} 0.0',
        'mica_router_queued_requests{model="chat"} 0.0',
        'mica_router_time_to_first_byte_seconds_bucket{le="0.25",model="chat"} 0.0',
        'mica_router_time_to_first_byte_seconds_bucket{le="0.5",model="chat"} 1.0',
        'mica_router_time_to_first_byte_seconds_bucket{le="+Inf",model="chat"} 1.0',
        'mica_router_time_to_first_byte_seconds_count{model="chat"} 1.0',
        "mica_router_client_connections 2.0",
        "mica_router_buffered_request_bytes 0.0",
    ):
        assert line in text.splitlines()
    assert admin.get("/demand").json() == {"models": {"chat": {"in_flight": 0, "queued": 0, "oldest_wait": 0.0}}}


async def test_readiness_waits_for_the_routes(bench: Bench) -> None:
    assert admin_of(bench, synced=False).get("/readyz").status_code == 503
    assert admin_of(bench).get("/readyz").status_code == 200
    assert admin_of(bench, synced=False).get("/livez").status_code == 200
