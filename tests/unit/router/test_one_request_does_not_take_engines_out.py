"""A request that every engine fails at says nothing about the engines; several requests that fail at one of them do."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.engines import Endpoint
from mica_router.core.routing import Routing
from mica_router.relay.health import Health, HealthRules

from .conftest import CHAT, OK_RESPONSE, Bench, EngineRequest, ManualClock, Script, die_silently, post

POISON = b'{"model": "chat", "messages": [{"role": "user", "content": "poison"}]}'
FAULTS = st.sampled_from(["status", "disconnected", "first_byte_timeout", "protocol", "truncated"])
ENGINES = [Endpoint("e", port) for port in range(1, 5)]


async def five_hundred(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Broken\r\nContent-Length: 4\r\n\r\nfail")


def poisoned_by(fault: Script) -> Script:
    async def script(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        if b"poison" in request.body:
            await fault(request, writer)
        else:
            writer.write(OK_RESPONSE)

    return script


@pytest.mark.parametrize("fault", [five_hundred, die_silently])
async def test_a_poisonous_request_sent_again_and_again_leaves_every_engine_in_use(bench: Bench, fault: Script) -> None:
    engines = [await bench.engine() for _ in range(3)]
    for engine in engines:
        engine.script = poisoned_by(fault)
    bench.route(*engines, routing=Routing(policy="round-robin"))
    for _ in range(10):
        assert (await bench.ask(post(POISON))).status in {500, 503}
    assert bench.context.load.fitness == {}
    assert [(await bench.ask(post(CHAT))).status for _ in range(6)] == [200] * 6


async def test_poisonous_requests_of_many_kinds_leave_one_engine_in_use(bench: Bench) -> None:
    engines = [await bench.engine() for _ in range(3)]
    for engine in engines:
        engine.script = poisoned_by(die_silently)
    bench.route(*engines, routing=Routing(policy="round-robin"))
    for number in range(20):
        await bench.ask(post(POISON.replace(b"poison", b"poison %d" % number)))
    fitness = bench.context.load.fitness
    assert [fitness.get(engine.endpoint, 1.0) for engine in engines].count(1.0) == 1
    assert [(await bench.ask(post(CHAT))).status for _ in range(6)] == [200] * 6


async def test_the_same_request_again_and_again_takes_out_an_engine_that_alone_fails_at_it(bench: Bench) -> None:
    bad, good = await bench.engine(), await bench.engine()
    bad.script = die_silently
    bench.route(bad, good, routing=Routing(policy="round-robin"))
    assert [(await bench.ask(post(CHAT))).status for _ in range(10)] == [200] * 10
    assert len(bad.requests) == 2
    assert bench.context.load.fitness == {bad.endpoint: 0.0}


async def test_what_an_engine_does_not_do_is_no_fault(bench: Bench) -> None:
    async def not_implemented(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 4\r\n\r\nno..")

    engines = [await bench.engine() for _ in range(2)]
    for engine in engines:
        engine.script = not_implemented
    bench.route(*engines)
    for number in range(8):
        assert (await bench.ask(post(b'{"model": "chat", "input": "%d"}' % number, path="/v1/embeddings"))).status == 501
    assert bench.context.load.fitness == {}


@given(st.lists(st.tuples(st.sampled_from(ENGINES), FAULTS, st.integers(1, 30)), max_size=60))
def test_faults_of_requests_never_take_out_the_last_fit_engine(faults: list[tuple[Endpoint, str, int]]) -> None:
    health = Health(ManualClock())
    health.keep_only([ENGINES, ENGINES[:2]])
    for endpoint, reason, mark in faults:
        health.fault(endpoint, reason, mark=mark)
    for service in (ENGINES, ENGINES[:2]):
        assert any(health.fitness.get(endpoint, 1.0) > 0 for endpoint in service)


@given(st.lists(st.tuples(st.sampled_from(ENGINES), FAULTS), max_size=60))
def test_one_request_takes_out_nothing_however_often_it_fails(faults: list[tuple[Endpoint, str]]) -> None:
    health = Health(ManualClock())
    health.keep_only([ENGINES])
    for endpoint, reason in faults:
        health.fault(endpoint, reason, mark=7)
    assert health.fitness == {}


def test_a_connection_that_cannot_be_made_takes_out_the_last_engine_too() -> None:
    health = Health(ManualClock())
    health.keep_only([ENGINES[:1]])
    health.fault(ENGINES[0], "connect")
    assert health.fitness == {ENGINES[0]: 0.0}


def test_an_engine_that_is_dead_for_days_stays_at_the_longest_time() -> None:
    clock = ManualClock()
    health = Health(clock, HealthRules(longest_ejection=30))
    for _ in range(1500):
        health.fault(ENGINES[0], "connect")
        clock.advance(30.5)
        health.refresh()
    health.fault(ENGINES[0], "connect")
    clock.advance(29)
    health.refresh()
    assert health.fitness == {ENGINES[0]: 0.0}


def test_what_another_worker_took_out_is_out_here_and_counted_there() -> None:
    health = Health(ManualClock())
    health.keep_only([ENGINES])
    health.ejected_elsewhere(ENGINES[0], "disconnected")
    assert health.fitness == {ENGINES[0]: 0.0}
    assert health.ejections == {}


def test_two_workers_that_each_take_out_another_engine_keep_both() -> None:
    health = Health(ManualClock())
    health.keep_only([ENGINES[:2]])
    for mark in (1, 2):
        health.fault(ENGINES[0], "disconnected", mark=mark)
    health.ejected_elsewhere(ENGINES[1], "disconnected")
    assert health.fitness == {ENGINES[0]: 0.0}
