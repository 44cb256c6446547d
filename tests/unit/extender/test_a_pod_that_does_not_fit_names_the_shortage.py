"""The reason that a user reads on a Pending pod."""

from __future__ import annotations

import pytest

from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, Code, NodeState, Rejection, Shape, choose

A100 = "NVIDIA A100"


def reject(request: ContainerRequest, *cards: Card, selection: Selection | None = None, max_slices: int = 10) -> Rejection:
    verdict = choose(Shape(PodRequest((request,)), selection or Selection()), NodeState("n", max_slices, cards))
    assert isinstance(verdict, Rejection)
    return verdict


def want(**amounts: int) -> ContainerRequest:
    return ContainerRequest("main", **{"number": 1, **amounts})


@pytest.mark.parametrize(
    ("request_", "card", "selection", "code", "permanent"),
    [
        (want(memory_mib=50), Card("u", 0, A100, 100, used_mib=60, slices=1), None, Code.INSUFFICIENT_MEMORY, False),
        (want(memory_mib=500), Card("u", 0, A100, 100), None, Code.INSUFFICIENT_MEMORY, True),
        (want(cores=50, memory_mib=1), Card("u", 0, A100, 100, used_cores=60, slices=1), None, Code.INSUFFICIENT_CORE, False),
        (want(memory_mib=1), Card("u", 0, A100, 100, used_cores=100, slices=1), None, Code.INSUFFICIENT_CORE, False),
        (want(cores=100, memory_mib=1), Card("u", 0, A100, 100, used_mib=1, slices=1), None, Code.EXCLUSIVE_CONFLICT, False),
        (want(memory_mib=1), Card("u", 0, A100, 100, slices=10), None, Code.SLICES_EXHAUSTED, False),
        (want(memory_mib=1), Card("u", 0, A100, 100, healthy=False), None, Code.NOT_HEALTHY, False),
        (want(memory_mib=1), Card("u", 0, A100, 100), Selection(use_models=frozenset({"h100"})), Code.TYPE_MISMATCH, True),
        (want(memory_mib=1), Card("u", 0, A100, 100), Selection(avoid_uuids=frozenset({"u"})), Code.UUID_MISMATCH, True),
        (want(number=2, memory_mib=1), Card("u", 0, A100, 100), None, Code.INSUFFICIENT_DEVICE, True),
    ],
)
def test_each_shortage_has_its_code(
    request_: ContainerRequest, card: Card, selection: Selection | None, code: Code, permanent: bool
) -> None:
    verdict = reject(request_, card, selection=selection)
    assert (verdict.code, verdict.permanent) == (code, permanent)


def test_a_shortage_is_named_before_a_card_that_is_out_of_question_anyway() -> None:
    sick, other, full = (
        Card("a", 0, A100, 100, healthy=False),
        Card("b", 1, "T4", 100),
        Card("c", 2, A100, 100, used_mib=99, slices=1),
    )
    verdict = reject(want(memory_mib=50), sick, other, full, selection=Selection(use_models=frozenset({"a100"})))
    assert verdict.code == Code.INSUFFICIENT_MEMORY
    assert not verdict.permanent


def test_the_counted_reason_lists_every_code_with_its_cards() -> None:
    full = [Card(f"m{i}", i, A100, 100, used_mib=99, slices=1) for i in range(6)]
    busy = [Card(f"c{i}", 6 + i, A100, 100, used_cores=90, slices=1) for i in range(2)]
    verdict = reject(want(cores=20, memory_mib=50), *full, *busy)
    assert verdict.counted == "2/8 CardInsufficientCore, 6/8 CardInsufficientMemory"
    assert verdict.code == Code.INSUFFICIENT_MEMORY


def test_a_node_without_cards_lacks_devices() -> None:
    assert reject(want(memory_mib=1)).code == Code.INSUFFICIENT_DEVICE


def test_two_containers_that_fit_alone_but_not_together_name_what_the_second_lacks() -> None:
    request = PodRequest(tuple(ContainerRequest(name, number=1, memory_mib=60) for name in ("a", "b")))
    verdict = choose(Shape(request), NodeState("n", 10, (Card("u", 0, A100, 100),)))
    assert isinstance(verdict, Rejection)
    assert (verdict.code, verdict.permanent) == (Code.INSUFFICIENT_MEMORY, False)
