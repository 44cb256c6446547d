"""Takeovers, terms, and what a Binding says on the wire: single cases that random interleavings seldom reach."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from mica_extender.kube_api import KubeApi
from mica_extender.ports import WRITE_DEAD_AFTER_S, WRITE_TIMEOUT_S, BindingLost
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import AlwaysLeading, LeaseWatch, Takeover
from mica_extender.state.records import LeaseRecord, PodRecord, decode_pod
from mica_runtime.kube import KubeClient
from mica_runtime.reflector import Change

from .conftest import World, pod_body
from .harness.loop import play

ASK = BindQuestion("default", "a", "uid-a", "n1")


class ByHand:
    """Leadership that a test sets."""

    def __init__(self, term: str = "one") -> None:
        self.present = term

    def leading(self) -> bool:
        return self.present != ""

    def term(self) -> str:
        return self.present


def test_a_new_leader_waits_until_the_writes_of_the_last_are_dead_and_then_lists() -> None:
    async def story() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        election, seen = ByHand(""), list[tuple[float, str]]()

        async def refresh() -> None:
            seen.append((loop.time(), "lists"))
            await asyncio.sleep(2.0)

        takeover = Takeover(election, refresh)
        running = asyncio.create_task(takeover.run())
        await asyncio.sleep(5.0)
        election.present = "ours"
        began = loop.time()
        for _ in range(300):
            await asyncio.sleep(0 if takeover.leading() else 0.1)
        seen.append((loop.time(), "leads"))
        running.cancel()
        return [(moment - began, what) for moment, what in seen]

    (listed, _), (led, _) = play(story)
    assert WRITE_DEAD_AFTER_S <= listed <= WRITE_DEAD_AFTER_S + 1
    assert listed + 2 <= led < 20


def test_a_new_leader_decides_nothing_before_its_list_has_come() -> None:
    async def story() -> list[str]:
        election, seen = ByHand("ours"), list[str]()

        async def refresh() -> None:
            seen.append(f"listing, term {takeover.term()!r}")

        takeover = Takeover(election, refresh)
        seen.append(f"elected, term {takeover.term()!r}")
        running = asyncio.create_task(takeover.run())
        await asyncio.sleep(WRITE_DEAD_AFTER_S - 1)
        seen.append(f"waiting, leads: {takeover.leading()}")
        await asyncio.sleep(2)
        seen.append(f"listed, term {takeover.term()!r}")
        running.cancel()
        return seen

    assert play(story) == ["elected, term ''", "waiting, leads: False", "listing, term ''", "listed, term 'ours'"]


def test_a_leader_that_comes_back_after_another_takes_over_anew() -> None:
    async def story() -> list[bool]:
        election = ByHand("ours/1")

        async def refresh() -> None:
            return

        takeover = Takeover(election, refresh)
        running = asyncio.create_task(takeover.run())
        await asyncio.sleep(10)
        found = [takeover.leading()]
        election.present = ""
        found.append(takeover.leading())
        election.present = "ours/1"
        found.append(takeover.leading())
        election.present = "ours/3"
        found.append(takeover.leading())
        await asyncio.sleep(10)
        found.append(takeover.leading())
        running.cancel()
        return found

    assert play(story) == [True, False, True, False, True]


def lease(holder: str, *, renewed: str, transitions: int) -> Change[LeaseRecord]:
    return Change("l", None, LeaseRecord("l", holder, 6, renewed, transitions))


def test_every_holder_of_the_lease_is_a_term_and_renewals_are_not() -> None:
    now = [0.0]
    watch = LeaseWatch("pod-a", lambda: now[0])
    assert watch.term() == ""
    watch.apply(lease("pod-a_x", renewed="1", transitions=4))
    first = watch.term()
    now[0] = 5.0
    watch.apply(lease("pod-a_x", renewed="2", transitions=4))
    now[0] = 10.0
    assert watch.term() == first != ""
    now[0] = 11.1
    assert watch.term() == ""
    watch.apply(lease("pod-a_x", renewed="3", transitions=6))
    assert watch.term() not in ("", first)


class Answers:
    """A BindingApi whose binds and reads are functions of the test."""

    def __init__(self, bind: Any, read: Any) -> None:
        self.sent = 0
        self._bind = bind
        self._read = read

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        self.sent += 1
        await self._bind()

    async def read(self, pod: PodRecord) -> PodRecord:
        return decode_pod(json.dumps(await self._read()).encode())


def test_a_decision_of_an_earlier_term_is_not_written_again(world: World) -> None:
    """Another leader in between may have given the cards away, and this replica leads once more when the read is answered."""
    world.see_pod(pod_body())
    leadership = ByHand("one")

    async def lost() -> None:
        raise BindingLost("reset")

    async def moved() -> dict[str, Any]:
        leadership.present = "three"
        return pod_body(revision="7")

    api = Answers(lost, moved)

    async def story() -> str:
        return await Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=leadership).bind(ASK)

    assert "no longer leads" in play(story)
    assert api.sent == 1
    assert world.ledger.reservation("uid-a") is None


def test_nobody_but_a_leader_binds_and_the_binder_looks_for_itself(world: World) -> None:
    world.see_pod(pod_body())

    async def never() -> None:
        raise AssertionError

    api = Answers(never, never)

    async def story() -> str:
        return await Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=ByHand("")).bind(ASK)

    assert "does not lead" in play(story)
    assert api.sent == 0


def test_only_a_read_that_began_after_the_write_died_proves_that_it_never_landed(world: World) -> None:
    """This read begins in time, is answered late, and shows how things were when it began: the write lands meanwhile."""
    world.see_pod(pod_body())
    stored = world.bound_body(pod_body(), "n1")
    reads: list[float] = []

    async def lost() -> None:
        raise BindingLost("reset")

    async def read() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        reads.append(loop.time())
        if loop.time() < WRITE_DEAD_AFTER_S - 1:
            await asyncio.sleep(WRITE_DEAD_AFTER_S + 1)
            return pod_body()
        return stored

    api = Answers(lost, read)

    async def story() -> int:
        loop = asyncio.get_running_loop()
        binder = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading(), clock=loop.time)
        await binder.bind(ASK)
        await asyncio.sleep(60)
        return len(reads)

    assert play(story) == 2
    assert world.used("n1")[0] == (3072, 20, 1), "the decision stands, and so do its cards"


class Wire:
    """Stands where the client of the API server stands, and keeps what it is asked."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any, Any, Any]] = []

    async def post(self, path: str, body: Any, *, params: Any = None, deadline: float = 10.0) -> dict[str, Any]:
        self.posts.append((path, body, params, deadline))
        return {}

    async def request(self, method: str, path: str, *, deadline: float) -> bytes:
        return json.dumps(pod_body(uid="another")).encode()


async def test_a_binding_names_the_pod_it_was_decided_for_and_when_the_server_must_give_up() -> None:
    wire = Wire()
    pod = decode_pod(json.dumps(pod_body(revision="41")).encode())
    await KubeApi(cast(KubeClient, wire)).bind(pod, node="n1", annotations={})
    [(path, body, params, deadline)] = wire.posts
    assert path == "/api/v1/namespaces/default/pods/a/binding"
    assert (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) == ("uid-a", "41")
    assert (params, deadline) == ({"timeout": "3s"}, WRITE_TIMEOUT_S)
    assert deadline + 3.0 < WRITE_DEAD_AFTER_S


async def test_an_eviction_names_the_uid_so_that_a_namesake_is_spared() -> None:
    wire = Wire()
    assert await KubeApi(cast(KubeClient, wire)).evict(namespace="default", name="a", uid="uid-a")
    [(path, body, _, _)] = wire.posts
    assert path == "/api/v1/namespaces/default/pods/a/eviction"
    assert body["deleteOptions"]["preconditions"] == {"uid": "uid-a"}


@pytest.mark.parametrize("pod_name", ["pod-", "pod", "pod-a_"])
def test_a_holder_of_a_similar_name_is_not_us(pod_name: str) -> None:
    watch = LeaseWatch(pod_name, lambda: 0.0)
    watch.apply(lease("pod-a_x", renewed="1", transitions=0))
    assert not watch.leading()
