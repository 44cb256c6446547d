"""A relay over real sockets with a GPU and a CPU engine: what overflows, what rules send where, and what explain says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mica_router.core.engines import Engine, Tier
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import CpuUse, Routing
from mica_router.core.rules import parse_rules
from mica_router.core.tier_chooser import TierChooser
from mica_router.explain import explain_request
from mica_router.scraping import EngineMetrics, HttpMetricsPort

from .conftest import OK_RESPONSE, Bench, EngineRequest, ScriptedEngine, post, within

RULES = parse_rules([{"name": "batch", "conditions": {"header:x-class": {"eq": "batch"}}, "action": {"device": "CPU"}}])


class Tiers:
    """One engine of each tier, told apart by what they answer; an engine that is held answers when it is let go."""

    def __init__(self, bench: Bench, gpu: ScriptedEngine, cpu: ScriptedEngine) -> None:
        self.bench = bench
        self.engines: dict[Tier, ScriptedEngine] = {"gpu": gpu, "cpu": cpu}
        self.metrics = EngineMetrics(HttpMetricsPort(), clock=bench.clock)
        self.chooser = TierChooser(rates=lambda service, tier: self.metrics.rates((service, tier)))
        self.said: dict[Tier, bytes] = {}
        self.free = asyncio.Event()
        bench.context.chooser = self.chooser
        bench.context.load.gauges_of = self.metrics.gauges
        for tier, engine in self.engines.items():
            engine.script = self._script(tier)

    def _script(self, tier: Tier) -> Any:
        async def script(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
            if request.head.startswith(b"GET /metrics"):
                said = self.said[tier]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
                return
            if tier == "gpu" and b"held" in request.body:
                await self.free.wait()
            writer.write(OK_RESPONSE)

        return script

    def serve(self, routing: Routing, *tiers: Tier) -> None:
        engines = tuple(
            Engine(endpoint=self.engines[tier].endpoint, tier=tier, kind="vllm", max_in_flight=1)
            for tier in tiers or ("gpu", "cpu")
        )
        service = Service(key=ServiceKey("ml", "chat"), model="chat", engines=engines, routing=routing)
        self.bench.server.publish(build_table([service]))
        self.metrics.follow({engine.endpoint: (service.key, engine.tier) for engine in engines})

    async def ask(self, *, headers: bytes = b"", **fields: Any) -> int:
        return (await self.bench.ask(post(json.dumps({"model": "chat", **fields}).encode(), headers=headers))).status

    def counts(self) -> tuple[int, int]:
        """Requests for answers that the GPU and the CPU engine have had."""
        gpu, cpu = (sum(b"/metrics" not in r.head for r in engine.requests) for engine in self.engines.values())
        return gpu, cpu

    def explain(self, **fields: Any) -> dict[str, Any]:
        context = self.bench.context
        body = json.dumps({"model": "chat", **fields}).encode()
        status, told = explain_request(
            "/v1/chat/completions", body, {}, table=context.table, chooser=self.chooser, load=context.load
        )
        assert status == 200
        return told


@pytest.fixture
async def tiers(bench: Bench) -> Tiers:
    return Tiers(bench, await bench.engine(), await bench.engine())


async def test_what_the_full_gpu_engine_would_let_wait_goes_to_the_cpu_engine(tiers: Tiers) -> None:
    tiers.serve(Routing(cpu=CpuUse(max_output_tokens=64)))
    first = asyncio.ensure_future(tiers.ask(user="held", max_tokens=8))
    await within(tiers.engines["gpu"].arrived.get())
    assert tiers.explain(max_tokens=8)["tier"] == "cpu"
    assert await tiers.ask(max_tokens=8) == 200
    assert tiers.counts() == (1, 1)
    told = tiers.explain(max_tokens=65)
    assert told["verdict"] == "hold" and told["tiers"]["reason"] == "answer_too_long"
    tiers.free.set()
    assert await first == 200
    assert tiers.explain(max_tokens=8)["tier"] == "gpu"


async def test_a_rule_sends_requests_to_its_tier(tiers: Tiers) -> None:
    tiers.serve(Routing(rules=RULES))
    assert await tiers.ask() == 200
    assert await tiers.ask(headers=b"X-Class: batch\r\n") == 200
    assert tiers.counts() == (1, 1)


async def test_the_cpu_engine_stands_in_and_leaves_again(tiers: Tiers) -> None:
    tiers.serve(Routing(cpu=CpuUse(mode="standby")), "cpu")
    assert await tiers.ask() == 200
    tiers.serve(Routing(cpu=CpuUse(mode="standby")))
    assert await tiers.ask() == 200
    assert tiers.counts() == (1, 1)


async def test_a_gpu_engine_that_is_gone_costs_no_request(tiers: Tiers) -> None:
    tiers.serve(Routing())
    await tiers.engines["gpu"].stop()
    assert [await tiers.ask() for _ in range(3)] == [200] * 3
    assert tiers.counts() == (0, 3)


async def test_what_an_engine_says_of_its_cache_moves_requests_while_it_is_fresh(tiers: Tiers) -> None:
    tiers.serve(Routing())
    tiers.said = {"gpu": b"vllm:kv_cache_usage_perc 0.97\n", "cpu": b"vllm:kv_cache_usage_perc 0.1\n"}
    for engine in tiers.engines.values():
        assert await tiers.metrics.ask(engine.endpoint)
    assert await tiers.ask(max_tokens=8) == 200
    assert tiers.explain()["tiers"]["gpu"]["kvPercent"] == 97.0
    tiers.bench.clock.advance(60)
    assert await tiers.ask(max_tokens=8) == 200
    assert tiers.counts() == (1, 1), "numbers of a minute ago decide nothing"
