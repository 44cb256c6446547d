"""Pods of several containers on fragmented nodes: nothing feasible is refused, and the answer costs a bounded number of steps."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.request import MAX_ASKING, MAX_SIZES, ContainerRequest, InitRequest, InvalidRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Placement, Shape, search
from mica_extender.placement.assign import Task, assign
from mica_extender.placement.charge import Member, charges, members
from mica_extender.placement.check import check_card
from mica_extender.placement.complete import Stack, complete

GIB = 1024
MAX_SLICES = 4


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """A few containers and cards; loads are whatever is drawn, so that nothing of memory or cores is taken for granted."""
    sizes = draw(st.integers(1, 3))
    kinds = draw(st.lists(st.integers(0, sizes - 1), min_size=1, max_size=5))
    members_of = [[at for at, kind in enumerate(kinds) if kind == size] for size in range(sizes)]
    members_of = [found for found in members_of if found]
    numbers = draw(st.lists(st.integers(1, 3), min_size=len(kinds), max_size=len(kinds)))
    load = st.tuples(*(st.integers(0, len(found)) for found in members_of))
    cards = draw(st.lists(st.lists(load, min_size=0, max_size=3, unique=True), min_size=1, max_size=4))
    ends = None
    if draw(st.booleans()):
        members_of, cards = [[0], [1]][: len(kinds)], [[tuple(min(x, 1) for x in one[:2]) for one in card] for card in cards]
        cards = [[(*one, 1)[: len(members_of)] for one in card] for card in cards]
        numbers = numbers[: len(members_of)]
        ends = [*draw(st.lists(st.booleans(), min_size=len(cards) - 1, max_size=len(cards) - 1)), True]
    return Task(numbers, members_of, cards, ends)


def by_trying(task: Task) -> bool:
    """Whether there is a way, card by card and set by set."""
    size_of = {at: size for size, found in enumerate(task.sizes) for at in found}

    @cache
    def solve(card: int, missing: tuple[int, ...]) -> bool:
        if not any(missing):
            return True
        if card == len(task.loads):
            return False
        everyone = range(len(missing))
        for count in range(len(missing) + 1):
            for chosen in combinations(everyone, count):
                sums = Counter(size_of[at] for at in chosen)
                if chosen and not any(all(sums[s] <= load[s] for s in sums) for load in task.loads[card]):
                    continue
                after = [max(left - (at in chosen), 0) for at, left in enumerate(missing)]
                if task.ends is not None and task.ends[card]:
                    after = [task.numbers[at] if left else 0 for at, left in enumerate(after)]
                if solve(card + 1, tuple(after)):
                    return True
        return False

    return solve(0, tuple(task.numbers))


@settings(max_examples=400)
@given(tasks())
def test_a_way_is_found_exactly_when_there_is_one(task: Task) -> None:
    found = assign(task)
    assert not found.given_up
    assert (found.cards is not None) == by_trying(task)
    if found.cards is None:
        return
    placed = Counter(at for on_it in found.cards for at in on_it)
    assert placed == Counter(dict(enumerate(task.numbers)))
    for on_it, loads in zip(found.cards, task.loads, strict=True):
        sums = [len(set(on_it) & set(size)) for size in task.sizes]
        assert len(set(on_it)) == len(on_it)
        assert not on_it or any(all(mine <= most for mine, most in zip(sums, load, strict=True)) for load in loads)


class Rules:
    """What the search asks of a card, by ``check_card`` alone."""

    def __init__(self, shape: Shape, node: NodeState) -> None:
        self._shape, self._node = shape, node

    def admits(self, at: int, member: Member, stack: Stack) -> bool:
        return all(
            check_card(
                stack[phase],
                wanted=member.request,
                shape=self._shape,
                max_slices=self._node.max_slices,
                before=self._node.cards[at],
            )
            is None
            for phase in member.phases
        )


requests = st.builds(
    lambda number, cores, gib, percent: ContainerRequest("c", number, cores, 0 if percent else gib * GIB, percent),
    st.integers(1, 3),
    st.sampled_from([0, 20, 50, 100]),
    st.integers(0, 9),
    st.sampled_from([0, 0, 0, 25, 60]),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Shape, NodeState]:
    cards = [
        Card(
            f"GPU-{at}",
            at,
            "A100",
            size * GIB,
            healthy=draw(st.sampled_from([True, True, True, False])),
            used_mib=min(draw(st.integers(0, 6)), size) * GIB if slices else 0,
            used_cores=draw(st.sampled_from([0, 10, 50, 100])) if slices else 0,
            slices=slices,
            capacity_mib=draw(st.sampled_from([0, 0, size * 3 * GIB // 2])),
            numa=draw(st.sampled_from([None, 0, 1])),
        )
        for at in range(draw(st.integers(1, 4)))
        for size, slices in [(draw(st.sampled_from([4, 8])), draw(st.integers(0, 3)))]
    ]
    found = draw(st.lists(requests, min_size=2, max_size=4))
    init = draw(st.lists(st.tuples(requests, st.booleans()), max_size=1))
    shape = Shape(
        PodRequest(tuple(found), tuple(InitRequest(one, restartable) for one, restartable in init)),
        Selection(numa_bind=draw(st.booleans())),
    )
    return shape, NodeState("n", MAX_SLICES, tuple(cards), gpu_policy=("binpack",))


def wanted_by(shape: Shape) -> list[Member]:
    """In the order of the search: what is exclusive before what could fill a card's cores, init containers last."""
    return sorted(members(shape.request), key=lambda one: (one.passing, not one.request.exclusive, -one.request.memory_mib))


def some_way(shape: Shape, node: NodeState) -> bool:
    """Every combination of cards for every container."""
    rules, wanted = Rules(shape, node), wanted_by(shape)

    def place(rest: list[Member], stacks: tuple[Stack, ...]) -> bool:
        if not rest:
            return True
        one = rest[0].request
        for chosen in combinations(range(len(stacks)), one.number):
            if shape.selection.numa_bind and len({node.cards[at].numa for at in chosen}) > 1:
                continue
            if not all(rules.admits(at, rest[0], stacks[at]) for at in chosen):
                continue
            after = tuple(
                tuple(
                    c.with_slice(memory_mib=one.memory_on(c.memory_mib), cores=one.cores) if phase in rest[0].phases else c
                    for phase, c in enumerate(stack)
                )
                if at in chosen
                else stack
                for at, stack in enumerate(stacks)
            )
            if place(rest[1:], after):
                return True
        return False

    return place(wanted, stacks_of(shape, node))


def stacks_of(shape: Shape, node: NodeState) -> tuple[Stack, ...]:
    depth = 1 + max(phase for one in members(shape.request) for phase in one.phases)
    return tuple((card,) * depth for card in node.cards)


@settings(max_examples=300)
@given(situations())
def test_the_complete_decision_is_that_of_trying_everything(situation: tuple[Shape, NodeState]) -> None:
    """With NUMA nodes, init containers, sidecars, overcommit and exclusive slices."""
    shape, node = situation
    found = complete(
        wanted_by(shape),
        stacks_of(shape, node),
        Rules(shape, node),
        one_numa=shape.selection.numa_bind,
        looks=lambda card: card.uuid,
    )
    assert not found.given_up
    assert (found.cards is not None) == some_way(shape, node)


def tight(seed: int, *, containers: int, sizes: int, number: int, cards: int) -> tuple[Shape, NodeState]:
    """A pod that just fits by its sums onto cards of which no two have the same memory left."""
    draw = random.Random(seed)
    amounts = draw.sample(range(8, 40), sizes)
    wanted = [
        ContainerRequest(f"c{at}", draw.randint(1, number), memory_mib=amounts[at % sizes] * GIB) for at in range(containers)
    ]
    need = sum(one.number * one.memory_mib for one in wanted)
    parts = [draw.randint(5, 80) for _ in range(cards)]
    free = [min(part * need * draw.choice((100, 103, 110)) // 100 // sum(parts), 200 * GIB) for part in parts]
    made = [Card(f"GPU-{at}", at, "A", 200 * GIB, True, 200 * GIB - left, 0, 1) for at, left in enumerate(free)]
    return Shape(PodRequest(tuple(wanted))), NodeState("n", 12, tuple(made), gpu_policy=("binpack",))


@pytest.mark.parametrize(("containers", "number", "cards"), [(6, 4, 8), (8, 8, 8), (6, 12, 16), (8, 12, 16)])
def test_the_largest_pods_that_are_admitted_are_decided_in_a_bounded_number_of_steps(
    containers: int, number: int, cards: int
) -> None:
    """A step is a combination of cards, about half a millisecond; ``tried`` counts the exact decision in the same unit."""
    fitted = 0
    for seed in range(25):
        shape, node = tight(seed, containers=containers, sizes=6, number=number, cards=cards)
        found = search(shape, node)
        assert not found.given_up
        assert found.tried < 2000
        if isinstance(found.verdict, Placement):
            fitted += 1
            taken = charges(shape.request, found.verdict, node.cards)
            assert all(taken[c.uuid].memory_mib + c.used_mib <= c.memory_mib for c in node.cards if c.uuid in taken)
            placed = [(len(shares), len({share.uuid for share in shares})) for shares in found.verdict.shares]
            assert placed == [(one.number, one.number) for one in shape.request.containers]
    assert fitted, "some of them fit"


def test_a_pod_with_more_asking_containers_or_more_sizes_than_can_be_decided_is_refused_in_words() -> None:
    many = tuple(ContainerRequest(f"c{at}", 1, memory_mib=GIB) for at in range(MAX_ASKING + 1))
    with pytest.raises(InvalidRequest, match=f"9 containers ask for GPU slices, at most {MAX_ASKING}"):
        PodRequest(many)
    with pytest.raises(InvalidRequest, match=f"7 different amounts of memory and cores, at most {MAX_SIZES}"):
        PodRequest(tuple(ContainerRequest(f"c{at}", 1, memory_mib=at * GIB) for at in range(1, MAX_SIZES + 2)))
    PodRequest((*many[:-1], *(ContainerRequest(f"helper{at}") for at in range(20))))
