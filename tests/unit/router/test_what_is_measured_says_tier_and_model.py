"""Waiting, first tokens, gaps and decisions are measured per model and tier; of requests, a share is logged."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from mica_router.core.engines import Engine, Tier
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import Routing
from mica_router.core.rules import parse_rules
from mica_router.core.tier_chooser import TierChooser
from mica_router.exposition import RouterCollector, take_snapshot
from mica_runtime.logging import get_logger

from .conftest import CHAT, Bench, EngineRequest, RawClient, ScriptedEngine, die_silently, eventually, post, settle, within

RULES = parse_rules([{"name": "batch", "conditions": {"header:x-class": {"eq": "batch"}}, "action": {"device": "CPU"}}])
STREAM = b'{"model": "chat", "stream": true}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"


class Stepping:
    """An engine that says one event whenever the test says so."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.steps: asyncio.Queue[bytes] = asyncio.Queue()
        engine.script = self._script

    async def _script(self, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        said = b""
        while not said.endswith(b"0\r\n\r\n"):
            said = await self.steps.get()
            writer.write(said)
            await writer.drain()


def lines(bench: Bench) -> list[str]:
    registry = CollectorRegistry()
    registry.register(RouterCollector(lambda: take_snapshot(bench.context)))
    return generate_latest(registry).decode().splitlines()


async def step(bench: Bench, engine: Stepping, client: RawClient, data: bytes, *, after: float) -> None:
    bench.clock.advance(after)
    engine.steps.put_nowait(data)
    await within(client.reader.readuntil(data[-5:]))
    await settle()


async def test_every_tier_is_timed_by_itself(bench: Bench) -> None:
    bench.context.chooser = TierChooser()
    engines: dict[Tier, Stepping] = {"gpu": Stepping(await bench.engine()), "cpu": Stepping(await bench.engine())}
    listed = tuple(Engine(endpoint=e.engine.endpoint, tier=tier, max_in_flight=1) for tier, e in engines.items())
    service = Service(key=ServiceKey("ml", "chat"), model="chat", engines=listed, routing=Routing(rules=RULES))
    bench.server.publish(build_table([service]))
    pace: dict[Tier, float] = {"gpu": 0.5, "cpu": 2.0}
    for tier, engine in engines.items():
        client = await bench.client()
        client.send(post(STREAM, headers=b"x-class: batch\r\n" if tier == "cpu" else b""))
        await within(engine.engine.arrived.get())
        await step(bench, engine, client, HEAD + EVENT, after=10 * pace[tier])
        for end in (b"", b"", b"0\r\n\r\n"):
            await step(bench, engine, client, EVENT + end, after=pace[tier])
    told = lines(bench)
    for tier, reason, first, gaps in (("gpu", "gpu_free", 5.0, 1.5), ("cpu", "rule", 20.0, 6.0)):
        labels = f'{{model="chat",tier="{tier}"}}'
        assert f'mica_router_decisions_total{{model="chat",reason="{reason}",tier="{tier}"}} 1.0' in told
        assert f"mica_router_time_to_first_token_seconds_sum{labels} {first}" in told
        assert f"mica_router_time_to_first_token_seconds_count{labels} 1.0" in told
        assert f"mica_router_inter_token_seconds_sum{labels} {gaps}" in told
        assert f"mica_router_inter_token_seconds_count{labels} 3.0" in told
        assert f"mica_router_queue_seconds_count{labels} 1.0" in told


async def test_the_wait_for_an_engine_is_timed(bench: Bench) -> None:
    engine = Stepping(await bench.engine())
    service = Service(
        key=ServiceKey("ml", "chat"), model="chat", engines=(Engine(endpoint=engine.engine.endpoint, max_in_flight=1),)
    )
    bench.server.publish(build_table([service]))
    first, second = await bench.client(), await bench.client()
    first.send(post(STREAM))
    await within(engine.engine.arrived.get())
    second.send(post(STREAM))
    await eventually(lambda: bool(bench.context.load.waiting.lines))
    bench.clock.advance(7)
    engine.steps.put_nowait(HEAD + EVENT + b"0\r\n\r\n")
    await within(engine.engine.arrived.get())
    assert 'mica_router_queue_seconds_sum{model="chat",tier="gpu"} 7.0' in lines(bench)
    assert 'mica_router_holds_total{model="chat",reason="saturated"} 1.0' in lines(bench)


@pytest.mark.parametrize(("share", "logged"), [(0.0, []), (0.25, [0, 2]), (1.0, [0, 1, 2, 3])])
async def test_a_share_of_requests_is_logged_without_what_is_secret(bench: Bench, share: float, logged: list[int]) -> None:
    drawn = iter([0.1, 0.5, 0.2, 0.99])
    bench.context.access_log_sample = share
    bench.context.load.random = drawn.__next__
    bench.route(await bench.engine())
    client = await bench.client()
    with capture_logs() as entries:
        get_logger("warm").info("warm")
        for number in range(4):
            body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "my-secret"}]}).encode()
            key = b"X-Api-Key" if number % 2 else b"Authorization"
            head = b"traceparent: 00-%032x-%016x-01\r\n%b: Bearer my-secret\r\n" % (number + 1, 1, key)
            client.send(post(body, path="/v1/chat/completions?token=my-secret", headers=head))
            assert (await client.response()).status == 200
    found = [entry for entry in entries if entry["event"] == "request"]
    assert [int(entry["traceparent"].split("-")[1], 16) - 1 for entry in found] == logged
    assert all((entry["path"], entry["status"], entry["model"]) == ("/v1/chat/completions", 200, "chat") for entry in found)
    assert "secret" not in repr(entries)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trace_that_the_router_began_is_logged_as_the_engine_sees_it(bench: Bench, stream: bool) -> None:
    bench.context.access_log_sample = 1.0
    engine = await bench.engine()
    bench.route(engine)
    with capture_logs() as entries:
        await bench.ask(post(json.dumps({"model": "chat", "messages": [], "stream": stream}).encode()))
    [seen] = [line for line in engine.requests[0].head.split(b"\r\n") if line.startswith(b"traceparent: ")]
    [entry] = [entry for entry in entries if entry["event"] == "request"]
    assert f"traceparent: {entry['traceparent']}" == seen.decode()


async def test_a_request_that_fails_is_logged_too(bench: Bench) -> None:
    bench.context.access_log_sample = 1.0
    engine = await bench.engine()
    engine.script = die_silently
    bench.route(engine)
    with capture_logs() as entries:
        assert (await bench.ask(post(CHAT))).status == 503
    assert [entry["status"] for entry in entries if entry["event"] == "request"] == [503]
