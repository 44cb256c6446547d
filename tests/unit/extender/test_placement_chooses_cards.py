"""Which cards a pod gets, and the invariants of that choice."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.allocation import mismatch
from mica_api.policies import CardPolicy, NodePolicy
from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Placement, Shape, choose, score, search
from mica_extender.placement.fit import SEARCH_BUDGET, check_card
from mica_extender.placement.score import MAX_SCORE, apply

GIB = 1024


def card(
    index: int = 0, *, memory: int = 80 * GIB, mib: int = 0, cores: int = 0, slices: int | None = None, healthy: bool = True
) -> Card:
    count = (1 if mib or cores else 0) if slices is None else slices
    return Card(f"GPU-{index}", index, "NVIDIA A100", memory, healthy, mib, cores, count)


def node(
    *cards: Card, name: str = "n", policy: NodePolicy = "binpack", gpu_policy: CardPolicy = "binpack", max_slices: int = 10
) -> NodeState:
    return NodeState(name, max_slices, cards, policy, (gpu_policy,))


def shape(*containers: ContainerRequest, node_policy: NodePolicy | None = None, gpu_policy: tuple[CardPolicy, ...] = ()) -> Shape:
    return Shape(PodRequest(containers), Selection(node_policy=node_policy, gpu_policy=gpu_policy))


def want(number: int = 1, cores: int = 0, mib: int = 0, percent: int = 0, name: str = "main") -> ContainerRequest:
    return ContainerRequest(name, number=number, cores=cores, memory_mib=mib, memory_percent=percent)


def fits(wanted: Shape, state: NodeState) -> bool:
    return isinstance(choose(wanted, state), Placement)


def uuids(verdict: object) -> list[list[str]]:
    assert isinstance(verdict, Placement)
    return [[share.uuid for share in shares] for shares in verdict.shares]


cards = st.builds(
    lambda size, memory, cores, slices, healthy: (size, min(memory, size), cores, slices, healthy),
    st.sampled_from([4, 8]),
    st.integers(0, 8),
    st.sampled_from([0, 10, 50, 100]),
    st.integers(0, 3),
    st.booleans(),
)
containers = st.builds(
    lambda number, cores, gib, percent: want(number, cores, 0 if percent else gib * GIB, percent),
    st.integers(0, 3),
    st.sampled_from([0, 20, 50, 100]),
    st.integers(0, 9),
    st.sampled_from([0, 0, 0, 25, 60]),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Shape, NodeState]:
    raw = draw(st.lists(cards, min_size=0, max_size=4))
    state = node(
        *(
            Card(f"GPU-{i}", i, "A100", size * GIB, healthy, gib * GIB if slices else 0, cores if slices else 0, slices)
            for i, (size, gib, cores, slices, healthy) in enumerate(raw)
        ),
        gpu_policy=draw(st.sampled_from(["binpack", "spread"])),
        max_slices=3,
    )
    named = [
        ContainerRequest(f"c{i}", c.number, c.cores, c.memory_mib, c.memory_percent)
        for i, c in enumerate(draw(st.lists(containers, min_size=1, max_size=3)))
    ]
    return shape(*named), state


def brute_force(wanted: Shape, state: NodeState) -> bool:
    def place(rest: tuple[ContainerRequest, ...], now: tuple[Card, ...]) -> bool:
        if not rest:
            return True
        for chosen in combinations(range(len(now)), rest[0].number):
            if any(check_card(now[i], wanted=rest[0], shape=wanted, max_slices=state.max_slices) for i in chosen):
                continue
            after = tuple(
                c.plus(memory_mib=rest[0].memory_on(c.memory_mib), cores=rest[0].cores) if i in chosen else c
                for i, c in enumerate(now)
            )
            if place(rest[1:], after):
                return True
        return False

    return place(tuple(c for c in wanted.request.containers if c.asks), state.cards)


@settings(max_examples=500)
@given(situations())
def test_cards_are_found_exactly_when_some_assignment_exists(situation: tuple[Shape, NodeState]) -> None:
    wanted, state = situation
    assert fits(wanted, state) == brute_force(wanted, state)


@settings(max_examples=500)
@given(situations())
def test_a_choice_is_what_was_asked_and_over_commits_nothing(situation: tuple[Shape, NodeState]) -> None:
    wanted, state = situation
    verdict = choose(wanted, state)
    if not isinstance(verdict, Placement):
        return
    memory_of = {c.uuid: c.memory_mib for c in state.cards}
    for request, shares in zip(wanted.request.containers, verdict.shares, strict=True):
        assert mismatch(request, shares, memory_of) is None
        assert len({share.uuid for share in shares}) == len(shares)
    chosen = {share.uuid for shares in verdict.shares for share in shares}
    exclusive = {
        s.uuid for r, shares in zip(wanted.request.containers, verdict.shares, strict=True) for s in shares if r.exclusive
    }
    for before, after in zip(state.cards, apply(state.cards, verdict), strict=True):
        if before.uuid in chosen:
            assert before.healthy
            assert after.used_mib <= after.memory_mib
            assert after.used_cores <= 100
            assert after.slices <= state.max_slices
        if before.uuid in exclusive:
            assert before.empty
            assert after.slices == 1


@settings(max_examples=200)
@given(situations())
def test_scores_stay_in_their_range(situation: tuple[Shape, NodeState]) -> None:
    wanted, state = situation
    verdict = choose(wanted, state)
    if isinstance(verdict, Placement):
        assert 0 <= score(wanted, state, verdict) <= MAX_SCORE


def test_card_binpack_takes_the_fullest_card_that_still_has_room() -> None:
    state = node(card(0), card(1, mib=30 * GIB), card(2, mib=79 * GIB))
    assert uuids(choose(shape(want(mib=3 * GIB)), state)) == [["GPU-1"]]


def test_card_spread_takes_the_emptiest_card() -> None:
    state = node(card(0, mib=10 * GIB), card(1, mib=30 * GIB), card(2, mib=1 * GIB), gpu_policy="spread")
    assert uuids(choose(shape(want(mib=3 * GIB)), state)) == [["GPU-2"]]


def test_a_pods_own_card_policy_wins_over_the_nodes() -> None:
    state = node(card(0), card(1, mib=30 * GIB), gpu_policy="binpack")
    assert uuids(choose(shape(want(mib=3 * GIB), gpu_policy=("spread",)), state)) == [["GPU-0"]]


def test_one_container_gets_distinct_cards_and_two_containers_may_share_one() -> None:
    assert not fits(shape(want(2, mib=1 * GIB)), node(card(0)))
    assert uuids(choose(shape(want(mib=1 * GIB), want(mib=1 * GIB, name="b")), node(card(0)))) == [["GPU-0"], ["GPU-0"]]


def test_an_exclusive_container_gets_an_empty_card_and_nobody_joins_it() -> None:
    busy, free = card(0, cores=10), card(1)
    assert uuids(choose(shape(want(cores=100)), node(busy, free))) == [["GPU-1"]]
    assert not fits(shape(want(mib=1)), node(card(0, mib=10, cores=100)))


def test_a_container_without_slices_gets_none_and_keeps_its_place() -> None:
    verdict = choose(shape(ContainerRequest("web"), want(mib=1 * GIB)), node(card(0)))
    assert uuids(verdict) == [[], ["GPU-0"]]


def test_memory_percent_is_of_each_card() -> None:
    verdict = choose(shape(want(2, percent=50)), node(card(0, memory=80 * GIB), card(1, memory=40 * GIB)))
    assert isinstance(verdict, Placement)
    assert {share.memory_mib for share in verdict.shares[0]} == {40 * GIB, 20 * GIB}


def test_several_containers_are_placed_although_the_best_card_of_one_blocks_another() -> None:
    state = node(card(0, memory=40 * GIB, mib=30 * GIB), card(1, memory=40 * GIB, mib=20 * GIB))
    wanted = shape(want(mib=10 * GIB), want(mib=10 * GIB, name="b"), want(mib=10 * GIB, name="c"))
    assert fits(wanted, state)


def test_node_binpack_prefers_the_fuller_node_and_spread_the_emptier_one() -> None:
    full, empty = node(card(0, mib=40 * GIB), name="full"), node(card(0), name="empty")
    wanted = shape(want(mib=3 * GIB))
    spread = shape(want(mib=3 * GIB), node_policy="spread")

    def worth(what: Shape, where: NodeState) -> int:
        verdict = choose(what, where)
        assert isinstance(verdict, Placement)
        return score(what, where, verdict)

    assert worth(wanted, full) > worth(wanted, empty)
    assert worth(spread, full) < worth(spread, empty)


@pytest.mark.parametrize(
    ("cores", "gib", "occupied"), [(25, 20, 25), (0, 20, 25), (25, 1, 25), (12, 10, 13), (0, 10, 13), (33, 20, 34), (50, 40, 50)]
)
def test_a_hundred_parts_of_cards_under_binpack_take_as_few_cards_as_possible(cores: int, gib: int, occupied: int) -> None:
    nodes = {f"n{i}": node(*(card(j) for j in range(4)), name=f"n{i}") for i in range(13)}
    wanted = shape(want(cores=cores, mib=gib * GIB))
    for _ in range(100):
        ranked = [
            (score(wanted, state, v), name, v)
            for name, state in nodes.items()
            if isinstance(v := choose(wanted, state), Placement)
        ]
        _, name, verdict = max(ranked, key=lambda item: (item[0], item[1]))
        state = nodes[name]
        nodes[name] = NodeState(state.name, state.max_slices, apply(state.cards, verdict), state.node_policy, state.gpu_policy)
    assert sum(not c.empty for state in nodes.values() for c in state.cards) == occupied


def four_of_eight(containers: int, **amounts: int) -> Shape:
    return shape(*(want(4, name=f"c{i}", **amounts) for i in range(containers)))


def test_what_cannot_fit_by_its_sums_is_not_searched_for() -> None:
    empty = node(*(card(i) for i in range(8)))
    uneven = node(*(card(i, mib=(i + 1) * GIB) for i in range(8)))
    for impossible in (
        four_of_eight(6, cores=100),
        four_of_eight(6, mib=30 * GIB),
        four_of_eight(6, cores=40, mib=GIB),
        four_of_eight(6, mib=41 * GIB),
    ):
        for state in (empty, uneven):
            found = search(impossible, state)
            assert not isinstance(found.verdict, Placement)
            assert found.tried <= 6
    assert search(four_of_eight(6, mib=GIB), node(*(card(i) for i in range(8)), max_slices=2)).tried <= 6


def test_what_the_policies_do_not_find_in_time_is_decided_all_the_same() -> None:
    state = node(*(card(i, mib=(10 + i) * GIB) for i in range(8)))
    wanted = shape(*(want(4, mib=gib * GIB, name=f"c{gib}") for gib in (19, 20, 21, 22, 23, 24)))
    cut_short = search(wanted, state, budget=SEARCH_BUDGET - 1)
    assert cut_short.given_up
    assert not isinstance(cut_short.verdict, Placement)
    found = search(wanted, state)
    assert isinstance(found.verdict, Placement)
    assert SEARCH_BUDGET < found.tried < SEARCH_BUDGET + 50


def test_one_container_is_decided_by_its_first_combination_whatever_the_budget() -> None:
    state = node(*(card(i, mib=(i % 7) * GIB) for i in range(16)))
    found = search(shape(want(8, mib=GIB)), state, budget=0)
    assert isinstance(found.verdict, Placement)
    assert found.tried == 1


def test_cards_that_look_alike_are_tried_once() -> None:
    state = node(*(card(i, memory=40 * GIB) for i in range(8)), card(8, memory=40 * GIB, mib=30 * GIB))
    wanted = shape(want(5, mib=25 * GIB), want(5, mib=15 * GIB, name="b"), want(5, mib=14 * GIB, name="c"))
    assert search(wanted, state).tried < 30
