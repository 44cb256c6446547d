"""What a card can take: overcommit, exclusive mode and containers, cordons, health; and the one code for each of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.request import ContainerRequest, InitRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, Code, NodeState, Placement, Rejection, Shape, choose
from mica_extender.placement.charge import charges, members, phases
from mica_extender.placement.check import PRECEDENCE

MIB = 1000
PLAIN = Card("GPU-0", 0, "A100", MIB)


def ask(*, number: int = 1, cores: int = 0, mib: int = 100, selection: Selection | None = None) -> Shape:
    request = PodRequest((ContainerRequest("main", number=number, cores=cores, memory_mib=mib),))
    return Shape(request, selection or Selection())


def on(*cards: Card, max_slices: int = 10) -> NodeState:
    return NodeState("n", max_slices, cards)


def code(shape: Shape, state: NodeState) -> tuple[Code, bool] | None:
    verdict = choose(shape, state)
    return (verdict.code, verdict.permanent) if isinstance(verdict, Rejection) else None


def test_memory_overcommit_lets_slices_together_have_more_than_the_card_but_none_alone() -> None:
    over = replace(PLAIN, capacity_mib=1500, used_mib=900, slices=1)
    assert code(ask(mib=600), on(over)) is None
    assert code(ask(mib=601), on(over)) == (Code.INSUFFICIENT_MEMORY, False)
    assert code(ask(mib=1001), on(over)) == (Code.INSUFFICIENT_MEMORY, True)
    verdict = choose(ask(mib=0), on(replace(PLAIN, capacity_mib=1500)))
    assert isinstance(verdict, Placement)
    assert verdict.shares[0][0].memory_mib == MIB, "all the memory of a card is what the card has"


def test_core_overcommit_lets_slices_together_have_more_than_the_card() -> None:
    over = replace(PLAIN, core_capacity=200, used_cores=120, used_mib=100, slices=2)
    assert code(ask(cores=80), on(over)) is None
    assert code(ask(cores=81), on(over)) == (Code.INSUFFICIENT_CORE, False)
    assert code(ask(), on(replace(over, used_cores=200))) == (Code.INSUFFICIENT_CORE, False)


def test_nobody_joins_an_exclusive_slice_whatever_the_overcommit() -> None:
    over = replace(PLAIN, core_capacity=200, capacity_mib=2000)
    assert code(ask(cores=100), on(over.with_slice(memory_mib=10, cores=10))) == (Code.EXCLUSIVE_CONFLICT, False)
    held = over.with_slice(memory_mib=10, cores=100)
    for cores in (0, 1, 50):
        assert code(ask(cores=cores), on(held)) == (Code.INSUFFICIENT_CORE, False)


def test_a_card_in_exclusive_mode_takes_one_slice() -> None:
    single = replace(PLAIN, max_slices=1)
    assert code(ask(), on(single)) is None
    assert code(ask(), on(single.with_slice(memory_mib=10, cores=10))) == (Code.SLICES_EXHAUSTED, False)
    both = PodRequest(tuple(ContainerRequest(name, number=1, memory_mib=10) for name in "ab"))
    assert code(Shape(both), on(single)) == (Code.SLICES_EXHAUSTED, False)
    assert code(Shape(both), on(single, replace(single, uuid="GPU-1"))) is None


def test_a_cordoned_card_takes_nothing_new_and_its_cordon_is_not_for_ever() -> None:
    assert code(ask(), on(replace(PLAIN, cordoned=True))) == (Code.CORDONED, False)
    assert code(ask(), on(replace(PLAIN, cordoned=True), replace(PLAIN, uuid="GPU-1"))) is None
    assert code(ask(mib=2000), on(replace(PLAIN, cordoned=True))) == (Code.CORDONED, True), "too small a card in any case"


def test_a_missing_model_is_for_ever_and_a_sick_card_of_it_is_not() -> None:
    h100 = ask(selection=Selection(use_models=frozenset({"h100"})))
    assert code(h100, on(PLAIN)) == (Code.TYPE_MISMATCH, True)
    assert code(h100, on(PLAIN, replace(PLAIN, model="H100", healthy=False))) == (Code.NOT_HEALTHY, False)


def test_an_uncapped_slice_is_kept_from_cards_whose_cores_others_have_taken_but_not_from_its_own_pods() -> None:
    pair = PodRequest((ContainerRequest("a", number=1, memory_mib=10), ContainerRequest("b", number=1, cores=50, memory_mib=10)))
    half = replace(PLAIN, used_cores=50, used_mib=10, slices=1)
    assert code(Shape(pair), on(half)) is None
    assert code(Shape(pair), on(replace(half, used_cores=51))) == (Code.INSUFFICIENT_CORE, False)


SHORT_OF = {
    Code.INSUFFICIENT_MEMORY: replace(PLAIN, used_mib=950, slices=1),
    Code.INSUFFICIENT_CORE: replace(PLAIN, used_cores=90, slices=1),
    Code.SLICES_EXHAUSTED: replace(PLAIN, slices=10),
    Code.CORDONED: replace(PLAIN, cordoned=True),
    Code.NOT_HEALTHY: replace(PLAIN, healthy=False),
    Code.UUID_MISMATCH: replace(PLAIN, uuid="GPU-9"),
    Code.TYPE_MISMATCH: replace(PLAIN, model="T4"),
}


@pytest.mark.parametrize(("first", "second"), list(combinations([code for code in PRECEDENCE if code in SHORT_OF], 2)))
def test_the_code_of_a_node_is_the_first_by_precedence_however_many_cards_say_another(first: Code, second: Code) -> None:
    selection = Selection(avoid_models=frozenset({"t4"}), avoid_uuids=frozenset({"GPU-9"}))
    state = on(SHORT_OF[second], SHORT_OF[second], SHORT_OF[first])
    verdict = choose(ask(cores=20, selection=selection), state)
    assert isinstance(verdict, Rejection)
    assert verdict.code == first
    assert verdict.counts == tuple(sorted([(first, 1), (second, 2)], key=lambda item: str(item[0])))


def test_every_code_has_a_place_in_the_precedence_and_there_are_few() -> None:
    assert sorted(PRECEDENCE) == sorted(Code)
    assert len(set(Code)) <= 20


sizes = st.sampled_from([400, 800])


@st.composite
def cards(draw: st.DrawFn, index: int) -> Card:
    memory = draw(sizes)
    core_capacity = draw(st.sampled_from([100, 100, 150]))
    fresh = Card(
        f"GPU-{index}",
        index,
        draw(st.sampled_from(["A100", "A100", "T4"])),
        memory,
        draw(st.sampled_from([True, True, True, False])),
        cordoned=draw(st.sampled_from([False, False, False, True])),
        capacity_mib=memory * draw(st.sampled_from([100, 100, 150])) // 100,
        core_capacity=core_capacity,
        max_slices=draw(st.sampled_from([0, 0, 0, 1])),
        numa=draw(st.sampled_from([None, 0, 1])),
    )
    if draw(st.booleans()):
        return fresh
    taken = draw(st.sampled_from([0, 100, 300])), draw(st.sampled_from([0, 20, 50, 100]))
    return fresh.with_slice(memory_mib=taken[0], cores=taken[1])


@st.composite
def containers(draw: st.DrawFn, name: str) -> ContainerRequest:
    percent = draw(st.sampled_from([0, 0, 50]))
    return ContainerRequest(
        name,
        number=draw(st.integers(0, 2)),
        cores=draw(st.sampled_from([0, 20, 50, 100])),
        memory_mib=0 if percent else draw(st.sampled_from([0, 100, 200, 500])),
        memory_percent=percent,
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Shape, NodeState]:
    node_cards = tuple(draw(cards(at)) for at in range(draw(st.integers(0, 3))))
    apps = tuple(draw(containers(f"a{at}")) for at in range(draw(st.integers(1, 2))))
    init = tuple(InitRequest(draw(containers(f"i{at}")), draw(st.booleans())) for at in range(draw(st.integers(0, 2))))
    selection = Selection(
        gpu_policy=draw(
            st.sampled_from([("binpack",), ("spread",), ("numa",), ("topology",), ("mutex",), ("mutex", "topology")])
        ),
        avoid_models=draw(st.sampled_from([frozenset(), frozenset({"t4"})])),
        numa_bind=draw(st.booleans()),
    )
    return Shape(PodRequest(apps, init), selection), NodeState("n", 3, node_cards)


def allowed(shape: Shape, state: NodeState, picks: dict[int, tuple[int, ...]]) -> bool:
    """The rules, written down once more and without any order: may the members have these cards for the pod's whole life?"""
    all_members = members(shape.request)
    mutex = "mutex" in shape.selection.gpu_policy
    for which, picked in picks.items():
        if shape.selection.numa_bind and len({state.cards[at].numa for at in picked}) > 1:
            return False
        for at in picked:
            card, wanted = state.cards[at], all_members[which].request
            memory = wanted.memory_on(card.memory_mib)
            usable = card.healthy and not card.cordoned and shape.selection.accepts_model(card.model)
            if not usable or not 1 <= memory <= card.memory_mib or card.used_cores >= card.core_capacity:
                return False
    for phase, (at, card) in product(range(phases(shape.request)), enumerate(state.cards)):
        here = [all_members[m].request for m, picked in picks.items() if at in picked and phase in all_members[m].phases]
        if not here:
            continue
        alone = mutex or any(one.exclusive for one in here)
        if alone and (len(here) > 1 or not card.empty):
            return False
        if card.used_mib + sum(one.memory_on(card.memory_mib) for one in here) > card.total_mib:
            return False
        if card.used_cores + sum(one.cores for one in here) > card.core_capacity:
            return False
        if card.slices + len(here) > (card.max_slices or state.max_slices):
            return False
    return True


def some_assignment(shape: Shape, state: NodeState) -> bool:
    choices = [list(combinations(range(len(state.cards)), member.request.number)) for member in members(shape.request)]
    return any(allowed(shape, state, dict(enumerate(picked))) for picked in product(*choices))


@pytest.mark.exhaustive
@settings(max_examples=1000)
@given(situations())
def test_a_pod_is_placed_exactly_when_some_assignment_keeps_every_rule(situation: tuple[Shape, NodeState]) -> None:
    shape, state = situation
    verdict = choose(shape, state)
    assert isinstance(verdict, Placement) == some_assignment(shape, state)
    if not isinstance(verdict, Placement):
        return
    position = {card.uuid: at for at, card in enumerate(state.cards)}
    picks = {}
    for which, member in enumerate(members(shape.request)):
        shares = (verdict.shares if member.app else verdict.init)[member.position]
        picks[which] = tuple(position[share.uuid] for share in shares)
        assert len(set(picks[which])) == member.request.number
    assert allowed(shape, state, picks)


@pytest.mark.exhaustive
@settings(max_examples=500)
@given(situations())
def test_a_charge_never_exceeds_a_card_in_any_dimension(situation: tuple[Shape, NodeState]) -> None:
    shape, state = situation
    verdict = choose(shape, state)
    if not isinstance(verdict, Placement):
        return
    charged = charges(shape.request, verdict, state.cards)
    for card in state.cards:
        if card.uuid in charged:
            amounts = charged[card.uuid]
            assert card.used_mib + amounts.memory_mib <= card.total_mib
            assert card.used_cores + amounts.cores <= card.core_capacity
            assert card.slices + amounts.slices <= card.slots(state.max_slices)
