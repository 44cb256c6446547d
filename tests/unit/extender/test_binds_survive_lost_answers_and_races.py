"""The bind under single faults, each by itself: what it answers and what it keeps. Interleavings are the harness's business."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from mica_api.request import ContainerRequest
from mica_extender.ports import BindingLost, BindingRefused, PodGone
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord, decode_pod

from .conftest import World, node_body, pod_body
from .harness.loop import VirtualLoop

ASK = BindQuestion("default", "a", "uid-a", "n1")


class Scripted:
    """An API whose answers are given in advance."""

    def __init__(self, *answers: Exception | None, stored: dict[str, object] | Exception | None = None) -> None:
        self.answers = list(answers)
        self.stored = stored
        self.sent: list[PodRecord] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        self.sent.append(pod)
        await self.gate.wait()
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer

    async def read(self, pod: PodRecord) -> PodRecord:
        if isinstance(self.stored, Exception):
            raise self.stored
        return decode_pod(json.dumps(self.stored).encode())


def binder(world: World, api: Scripted) -> Binder:
    world.see_pod(pod_body())
    return Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading())


async def test_a_lost_answer_to_a_stored_decision_is_success(world: World) -> None:
    api = Scripted(BindingLost("reset"), stored=world.bound_body(pod_body(), "n1"))
    assert await binder(world, api).bind(ASK) == ""
    assert len(api.sent) == 1
    assert world.used("n1")[0] == (3072, 20, 1)


async def test_what_is_stored_is_adopted_and_not_what_was_sent(world: World) -> None:
    stored = world.bound_body(pod_body(), "n1")
    annotation = stored["metadata"]["annotations"]["alloc.mica.dev/c0"]
    stored["metadata"]["annotations"]["alloc.mica.dev/c0"] = annotation.replace("GPU-n1-0", "GPU-n1-1")
    assert await binder(world, Scripted(BindingRefused("409", conflict=True), stored=stored)).bind(ASK) == ""
    assert world.used("n1") == [(0, 0, 0), (3072, 20, 1)]


async def test_a_conflict_about_the_revision_alone_is_tried_once_more(world: World) -> None:
    api = Scripted(BindingRefused("409", conflict=True), None, stored=pod_body(revision="7"))
    assert await binder(world, api).bind(ASK) == ""
    assert [pod.revision for pod in api.sent] == ["1", "7"]


async def test_a_second_try_chooses_its_cards_anew(world: World) -> None:
    """Between the tries the node's agent reports that the first choice is held by somebody else."""

    class Meanwhile(Scripted):
        async def read(self, pod: PodRecord) -> PodRecord:
            gpus = [{"uuid": "GPU-n1-0", "memoryMiB": 81920, "cores": 100}]
            world.see_node(node_body("n1", slices=[{"podUID": "ghost", "container": "c", "gpus": gpus}]))
            return await super().read(pod)

    api = Meanwhile(BindingRefused("409", conflict=True), None, stored=pod_body(revision="7"))
    assert await binder(world, api).bind(ASK) == ""
    assert world.used("n1") == [(81920, 100, 1), (3072, 20, 1)]


async def test_a_second_conflict_gives_the_cards_back(world: World) -> None:
    conflict = BindingRefused("409", conflict=True)
    api = Scripted(conflict, conflict, stored=pod_body(revision="7"))
    assert await binder(world, api).bind(ASK) != ""
    assert world.used("n1")[0] == (0, 0, 0)
    assert world.ledger.reservation("uid-a") is None


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        (BindingRefused("403", conflict=False), None),
        (BindingRefused("409", conflict=True), PodGone("gone")),
        (BindingLost("reset"), PodGone("gone")),
        (BindingRefused("409", conflict=True), pod_body(node="elsewhere")),
        (BindingRefused("409 gated", conflict=True), pod_body()),
    ],
    ids=["refused", "gone", "lost and gone", "bound elsewhere", "not changed"],
)
async def test_a_bind_that_failed_for_certain_gives_the_cards_back(
    world: World, answer: Exception, stored: dict[str, object] | Exception | None
) -> None:
    assert await binder(world, Scripted(answer, stored=stored)).bind(ASK) != ""
    assert world.used("n1")[0] == (0, 0, 0)


async def test_calls_for_one_pod_join_one_write(world: World) -> None:
    api = Scripted(None)
    api.gate.clear()
    one = binder(world, api)
    calls = [asyncio.create_task(one.bind(ASK)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "being bound to n1" in await one.bind(BindQuestion("default", "a", "uid-a", "n2"))
    api.gate.set()
    assert await asyncio.gather(*calls) == ["", "", ""]
    assert len(api.sent) == 1


async def test_two_pods_never_get_what_only_one_can_have(world: World) -> None:
    api = Scripted(None, None, None)
    big = [ContainerRequest("main", number=1, memory_mib=80000)]
    for name in ("x", "y", "z"):
        world.see_pod(pod_body(name, containers=big))
    one = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading())
    errors = await asyncio.gather(*(one.bind(BindQuestion("default", n, f"uid-{n}", "n1")) for n in ("x", "y", "z")))
    assert sorted(bool(error) for error in errors) == [False, False, True]
    assert any("CardInsufficientMemory" in error for error in errors)


def test_an_unknown_outcome_keeps_the_cards_and_the_scheduler_hears_of_it_in_time(world: World) -> None:
    api = Scripted(BindingLost("reset"), stored=pod_body())

    async def story() -> tuple[str, float, list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        loop = asyncio.get_running_loop()
        world.see_pod(pod_body())
        one = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading(), clock=loop.time)
        started = loop.time()
        error = await one.bind(ASK)
        waited = loop.time() - started
        meanwhile = world.used("n1")
        await asyncio.sleep(80)
        return error, waited, meanwhile, world.used("n1")

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        error, waited, meanwhile, after = runner.run(story())
    assert "under way" in error
    assert waited == pytest.approx(3, abs=0.1)
    assert meanwhile[0] == (3072, 20, 1)
    assert after[0] == (0, 0, 0), "the API server has long given the request up"


async def test_an_error_that_nobody_foresaw_is_settled_like_a_lost_answer(world: World) -> None:
    api = Scripted(OSError("token cannot be read"), stored=world.bound_body(pod_body(), "n1"))
    assert await binder(world, api).bind(ASK) == ""
    assert world.used("n1")[0] == (3072, 20, 1)
    assert world.ledger.reservation("uid-a") is not None


@pytest.mark.parametrize("reads", [[pod_body()], [ValueError("odd"), pod_body()]], ids=["read at once", "read in the end"])
def test_an_error_that_nobody_foresaw_gives_the_cards_back_once_the_write_is_dead(world: World, reads: list[object]) -> None:
    class Odd(Scripted):
        async def read(self, pod: PodRecord) -> PodRecord:
            found = reads.pop(0) if len(reads) > 1 else reads[0]
            if isinstance(found, Exception):
                raise found
            return decode_pod(json.dumps(found).encode())

    async def story() -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        world.see_pod(pod_body())
        api = Odd(RuntimeError("never heard of"))
        one = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading(), clock=loop.time)
        error = await one.bind(ASK)
        await asyncio.sleep(80)
        return error, world.ledger.size().reservations

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(story()) == ("binding of pod default/a to n1 is still under way", 0)
    assert world.used("n1")[0] == (0, 0, 0)


async def test_a_pod_that_is_bound_here_already_is_success_without_a_write(world: World) -> None:
    world.see_pod(world.bound_body(pod_body(), "n1"))
    api = Scripted()
    one = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading())
    assert await one.bind(ASK) == ""
    assert "already bound to n1" in await one.bind(BindQuestion("default", "a", "uid-a", "n2"))
    assert api.sent == []


async def test_a_bound_pod_that_the_watch_still_shows_unbound_is_not_decided_again(world: World) -> None:
    api = Scripted(None)
    one = binder(world, api)
    world.see_node(node_body("n2"))
    assert await one.bind(ASK) == ""
    assert await one.bind(ASK) == ""
    assert "already bound to n1" in await one.bind(BindQuestion("default", "a", "uid-a", "n2"))
    assert len(api.sent) == 1
    assert world.used("n1")[0] == (3072, 20, 1)


def test_a_pod_that_our_watch_shows_a_moment_later_is_bound(world: World) -> None:
    """kube-scheduler has a watch of its own; refusing here would put an event of failure on a healthy pod."""

    async def story() -> str:
        api = Scripted(None)
        one = Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=AlwaysLeading())
        asked = asyncio.create_task(one.bind(ASK))
        await asyncio.sleep(0.3)
        world.see_pod(pod_body())
        return await asked

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(story()) == ""
