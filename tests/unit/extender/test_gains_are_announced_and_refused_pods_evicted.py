"""Pokes, evictions and leadership."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mica_device_plugin.verify import Reason
from mica_extender.evictor import MENDABLE, Evictor
from mica_extender.metrics import Metrics
from mica_extender.poke import Poker
from mica_extender.state.leadership import AlwaysLeading, LeaseWatch
from mica_extender.state.records import LeaseRecord
from mica_runtime.reflector import Change

from .conftest import World, node_body, pod_body
from .harness.loop import VirtualLoop


class Standby:
    def leading(self) -> bool:
        return False


class Pokes:
    """Counts pokes; the first ``failing`` do not work."""

    def __init__(self, failing: int = 0) -> None:
        self.values: list[str] = []
        self.failing = failing

    async def poke(self, value: str) -> bool:
        if self.failing:
            self.failing -= 1
            return False
        self.values.append(value)
        return True


def poked(api: Pokes, *, gains: int, seconds: float, leading: bool = True) -> list[str]:
    async def story() -> None:
        poker = Poker(api=api, leadership=AlwaysLeading() if leading else Standby(), metrics=Metrics(CollectorRegistry()))
        running = asyncio.create_task(poker.run())
        for _ in range(gains):
            poker.gain()
            await asyncio.sleep(seconds / gains)
        await asyncio.sleep(2)
        running.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())
    return api.values


def test_a_gain_is_announced_once_and_with_a_new_value_each_time() -> None:
    assert len(poked(Pokes(), gains=1, seconds=0.1)) == 1
    values = poked(Pokes(), gains=2, seconds=2)
    assert len(set(values)) == 2


def test_a_thousand_gains_in_two_seconds_are_at_most_five_pokes_a_second() -> None:
    assert 5 <= len(poked(Pokes(), gains=1000, seconds=2)) <= 11


def test_a_poke_that_failed_is_repeated() -> None:
    assert len(poked(Pokes(failing=1), gains=1, seconds=0.1)) == 1


def test_a_standby_keeps_quiet() -> None:
    assert poked(Pokes(), gains=3, seconds=1, leading=False) == []


class Evictions:
    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def evict(self, *, namespace: str, name: str, uid: str) -> bool:
        self.asked.append(uid)
        return self.answers.pop(0) if self.answers else True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(uid: str = "uid-a", reason: str = "OutOfMemory") -> dict[str, Any]:
    return {"podUID": uid, "namespace": "default", "pod": "a", "container": "main", "reason": reason, "message": "m"}


def owned(world: World) -> dict[str, Any]:
    body = world.bound_body(pod_body(), "n1")
    body["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "r", "controller": True}]
    return body


def evictor(world: World, api: Evictions, clock: Clock) -> Evictor:
    return Evictor(
        ledger=world.ledger,
        pods=world.pods,
        api=api,
        leadership=AlwaysLeading(),
        metrics=Metrics(CollectorRegistry()),
        clock=clock,
    )


async def test_a_refused_pod_with_an_owner_is_evicted_once_it_has_lasted_and_with_growing_pauses(world: World) -> None:
    world.see_pod(owned(world))
    world.see_node(node_body("n1", refusals=[refusal()]))
    api, clock = Evictions(False, False, True), Clock()
    one = evictor(world, api, clock)
    moments = []
    for second in range(30):
        clock.now = 100.0 + second
        before = len(api.asked)
        await one.step()
        if len(api.asked) > before:
            moments.append(second)
    assert moments[:3] == [20, 22, 26]


@pytest.mark.parametrize("case", ["no owner", "another uid", "being deleted", "refusal gone"])
async def test_pods_that_must_not_be_evicted_stay(world: World, case: str) -> None:
    body = owned(world) if case != "no owner" else world.bound_body(pod_body(), "n1")
    if case == "being deleted":
        body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.see_pod(body)
    listed = [] if case == "refusal gone" else [refusal("other" if case == "another uid" else "uid-a")]
    world.see_node(node_body("n1", refusals=listed))
    api, clock = Evictions(), Clock()
    one = evictor(world, api, clock)
    for _ in range(60):
        await one.step()
        clock.now += 1
    assert api.asked == []


@pytest.mark.parametrize("reason", sorted(reason.value for reason in Reason))
async def test_only_what_another_decision_mends_costs_the_pod(world: World, reason: str) -> None:
    world.see_pod(owned(world))
    world.see_node(node_body("n1", refusals=[refusal(reason=reason)]))
    api, clock = Evictions(), Clock()
    one = evictor(world, api, clock)
    for _ in range(30):
        await one.step()
        clock.now += 1
    assert bool(api.asked) == (reason in MENDABLE)


def test_passing_reasons_and_those_of_the_template_are_not_mended_by_another_decision() -> None:
    known = {reason.value for reason in Reason}
    assert known >= MENDABLE, "spelt as the node agent spells them"
    assert not MENDABLE & {"SlotsInUse", "UnhealthyGPU", "Undecided", "NotBoundHere"}
    assert not MENDABLE & {"InvalidRequest", "InitContainer", "UnknownContainer"}


async def test_a_refusal_that_comes_and_goes_never_lasts(world: World) -> None:
    world.see_pod(owned(world))
    api, clock = Evictions(), Clock()
    one = evictor(world, api, clock)
    for second in range(100):
        listed = [] if second % 15 == 14 else [refusal()]
        world.see_node(node_body("n1", refusals=listed))
        await one.step()
        clock.now += 1
    assert api.asked == []


def lease(holder: str = "pod-1_abc", renewed: str = "t0") -> Change[LeaseRecord]:
    return Change("x", None, LeaseRecord("mica-scheduler", holder, 6, renewed))


def test_our_pod_leads_while_it_is_seen_to_renew_its_lease() -> None:
    clock = Clock()
    watch = LeaseWatch("pod-1", clock)
    assert not watch.leading()
    watch.apply(lease())
    assert watch.leading()
    clock.now += 5
    watch.apply(lease(renewed="t1"))
    clock.now += 5.9
    assert watch.leading()
    clock.now += 0.2
    assert not watch.leading(), "the lease has run out on our clock"


@pytest.mark.parametrize("holder", ["pod-2_abc", "pod-10_abc", "pod-1", ""])
def test_a_lease_of_somebody_else_is_not_ours(holder: str) -> None:
    watch = LeaseWatch("pod-1", Clock())
    watch.apply(lease(holder))
    assert not watch.leading()


def test_a_lease_that_is_shown_again_without_a_renewal_does_not_count_as_one() -> None:
    clock = Clock()
    watch = LeaseWatch("pod-1", clock)
    watch.apply(lease())
    clock.now += 7
    watch.apply(lease())
    assert not watch.leading()


def test_a_lost_lease_ends_leadership_at_once() -> None:
    watch = LeaseWatch("pod-1", Clock())
    watch.apply(lease())
    watch.apply(Change("x", None, None))
    assert not watch.leading()
