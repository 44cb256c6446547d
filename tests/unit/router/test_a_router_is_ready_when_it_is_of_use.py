"""`/readyz`, condition `engines`: models at zero are no fault of a router that can hold their requests."""

from __future__ import annotations

import pytest

from mica_router.core.engines import Endpoint, Engine
from mica_router.core.readiness import can_serve
from mica_router.core.routes import Service, ServiceKey, build_table
from mica_router.core.routing import QueueLimits, Routing

ONE, TWO = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)


def service(name: str, *endpoints: Endpoint, holds: bool = True) -> Service:
    return Service(
        key=ServiceKey("team-a", name),
        model=name,
        engines=tuple(Engine(endpoint=endpoint) for endpoint in endpoints),
        routing=Routing(queue=QueueLimits(max_requests=8 if holds else 0)),
    )


@pytest.mark.parametrize(
    ("services", "out", "ready"),
    [
        ([], (), True),
        ([service("zero")], (), True),
        ([service("zero", holds=False)], (), True),
        ([service("chat", ONE, TWO)], (ONE,), True),
        ([service("chat", ONE, TWO)], (ONE, TWO), False),
        ([service("chat", ONE), service("zero")], (ONE,), True),
        ([service("chat", ONE), service("zero", holds=False)], (ONE,), False),
        ([service("chat", ONE), service("code", TWO)], (ONE,), True),
    ],
    ids=[
        "nothing is known",
        "all at zero",
        "all at zero and none held",
        "one engine is out",
        "all engines are out",
        "all engines are out and another model is at zero",
        "all engines are out and another model at zero holds nothing",
        "one of two models is out",
    ],
)
def test_a_router_is_ready_when_it_can_serve_or_hold(services: list[Service], out: tuple[Endpoint, ...], ready: bool) -> None:
    assert can_serve(build_table(services), dict.fromkeys(out, 0.0)) is ready


def test_an_engine_on_its_way_back_serves() -> None:
    assert can_serve(build_table([service("chat", ONE)]), {ONE: 0.1})
