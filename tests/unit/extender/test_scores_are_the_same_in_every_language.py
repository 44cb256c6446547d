"""``score.py`` after ``fit.py``, numpy and the C kernel give one integer for every node, shape and mix."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.compute import ComputeChoice
from mica_api.policies import Weights
from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import MAX_SCORE, Card, NodeState, Placement, Shape, choose, score
from mica_extender.placement.fleet import Fleet, Int64
from mica_extender.placement.fragmentation import card_key
from mica_extender.placement.kernels import CompiledShape, load_native
from mica_extender.placement.mix import NOTHING_LEARNED, CardKind, Mix, Supply, Tables
from mica_extender.placement.scoring import UNSCORED, CompiledTables, native_choice, native_scores, numpy_scores

NATIVE = load_native()
GIB = 1024
MODELS = ("NVIDIA A100", "Tesla T4")


@st.composite
def cards(draw: st.DrawFn) -> Card:
    size = draw(st.sampled_from([4, 8, 24])) * GIB
    slices = draw(st.integers(0, 4))
    return Card(
        "",
        0,
        draw(st.sampled_from(MODELS)),
        size,
        healthy=draw(st.sampled_from([True, True, True, False])),
        used_mib=draw(st.integers(0, size)) if slices else 0,
        used_cores=draw(st.integers(0, 100)) if slices else 0,
        slices=slices,
        cordoned=draw(st.sampled_from([False, False, False, True])),
        capacity_mib=draw(st.sampled_from([0, 0, size * 3 // 2])),
        core_capacity=draw(st.sampled_from([100, 100, 150])),
        max_slices=draw(st.sampled_from([0, 0, 1])),
    )


@st.composite
def nodes(draw: st.DrawFn) -> NodeState:
    drawn = draw(st.lists(cards(), min_size=1, max_size=5))
    if draw(st.booleans()):
        drawn = [replace(card, memory_mib=drawn[0].memory_mib, capacity_mib=0, core_capacity=100) for card in drawn]
        drawn = [replace(card, used_mib=min(card.used_mib, card.memory_mib)) for card in drawn]
    cpu = draw(st.one_of(st.just(-1), st.integers(0, 200_000)))
    return NodeState(
        "",
        draw(st.integers(1, 5)),
        tuple(drawn),
        node_policy=draw(st.sampled_from(["fragmentation", "fragmentation", "binpack", "spread"])),
        gpu_policy=draw(st.sampled_from([("fragmentation",), ("fragmentation",), ("binpack",), ("spread",)])),
        weights=draw(st.sampled_from([None, None, Weights(1, 0, 3)])),
        cpu_total=200_000 if cpu >= 0 else -1,
        cpu_left=cpu,
    )


@st.composite
def fleets(draw: st.DrawFn) -> list[NodeState]:
    drawn = draw(st.lists(nodes(), min_size=1, max_size=4))
    return [
        replace(node, name=f"n{n}", cards=tuple(replace(c, uuid=f"GPU-{n}-{i}", index=i) for i, c in enumerate(node.cards)))
        for n, node in enumerate(drawn)
    ]


@st.composite
def requests(draw: st.DrawFn) -> ContainerRequest:
    percent = draw(st.sampled_from([0, 0, 25, 60]))
    memory = 0 if percent else draw(st.integers(0, 9)) * GIB // 2
    return ContainerRequest("c", draw(st.integers(1, 3)), draw(st.sampled_from([0, 20, 50, 100])), memory, percent)


@st.composite
def small_requests(draw: st.DrawFn) -> ContainerRequest:
    """Mostly of one GPU, and of amounts that leave room for another on the same card."""
    memory = draw(st.integers(0, 5)) * GIB // 2
    return ContainerRequest("c", draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([0, 10, 20, 50, 100])), memory)


@st.composite
def shapes(draw: st.DrawFn, least: int = 0, most: int = 1) -> Shape:
    asked = draw(st.lists(requests() if most < 2 else small_requests(), min_size=least, max_size=most))
    selection = Selection(
        node_policy=draw(st.sampled_from([None, None, "fragmentation", "binpack"])),
        gpu_policy=draw(st.sampled_from([(), (), ("fragmentation",)])),
        use_models=frozenset(draw(st.sampled_from([(), (), ("a100",), ("t4",)]))),
    )
    return Shape(PodRequest(tuple(asked)), selection, draw(st.integers(0, 30_000)))


def one(number: int, cores: int = 0, memory_mib: int = 0, cpu: int = 4000, models: tuple[str, ...] = ()) -> Shape:
    request = PodRequest((ContainerRequest("c", number, cores, memory_mib),))
    return Shape(request, Selection(use_models=frozenset(models)), cpu)


def learned() -> Tables:
    mix = Mix()
    for shape in (one(1, 100), one(1, 30, 3 * GIB), one(2, 0, GIB, models=("t4",)), one(1, 0, 5 * GIB, cpu=1000)):
        mix.observe(shape)
    kinds = {MODELS[0]: CardKind(8 * GIB, 8 * GIB), MODELS[1]: CardKind(4 * GIB, 6 * GIB, 150)}
    return mix.current(Supply(kinds, {MODELS[0]: 20, MODELS[1]: 3}, 500_000, 23))


TABLES = {"nothing": NOTHING_LEARNED, "learned": learned(), "cpu does not count": replace(learned(), fed=0)}


def by_specification(shape: Shape, node: NodeState, tables: Tables) -> int | None:
    verdict = choose(shape, node, cost=partial(card_key, tables=tables))
    return score(shape, node, verdict, tables) if isinstance(verdict, Placement) else None


def both(fleet: Fleet, shape: Shape, tables: Tables, rows: list[int]) -> tuple[list[int], list[int]]:
    compiled, at = CompiledShape(shape, fleet), np.array(rows, np.int32)
    ours: list[Int64] = [
        native_scores(NATIVE.library, fleet, compiled, CompiledTables(tables, fleet), at),
        numpy_scores(fleet, compiled, CompiledTables(tables, fleet), at),
    ]
    return ours[0].tolist(), ours[1].tolist()


def check(states: list[NodeState], shape: Shape, tables: Tables) -> None:
    fleet = Fleet()
    for node in states:
        fleet.put(node)
    wanted = {fleet.index[node.name]: found for node in states if (found := by_specification(shape, node, tables)) is not None}
    native, numpy = both(fleet, shape, tables, list(wanted))
    if len(shape.request.containers) <= 1:
        assert native == numpy
    for in_c, in_numpy, right in zip(native, numpy, wanted.values(), strict=True):
        assert 0 <= right <= MAX_SCORE
        assert in_c in (right, UNSCORED)
        assert in_numpy in (right, UNSCORED)


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=80)
@given(states=fleets(), shape=shapes())
def test_every_language_gives_the_same_score(name: str, states: list[NodeState], shape: Shape) -> None:
    check(states, shape, TABLES[name])


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=150)
@given(states=fleets(), shape=shapes(least=1), backwards=st.booleans())
def test_the_kernel_chooses_the_cards_that_the_specification_does(
    name: str, states: list[NodeState], shape: Shape, backwards: bool
) -> None:
    tables = TABLES[name]
    if backwards:
        states = [replace(node, cards=node.cards[::-1]) for node in states]
    fleet = Fleet(states)
    compiled = CompiledShape(shape, fleet)
    for node in states:
        found = native_choice(NATIVE.library, fleet, compiled, CompiledTables(tables, fleet), fleet.index[node.name])
        verdict = choose(shape, node, cost=partial(card_key, tables=tables))
        if found is not None:
            assert isinstance(verdict, Placement)
            assert [node.cards[at].uuid for at in found] == [share.uuid for share in verdict.shares[0]]
        elif isinstance(verdict, Placement) and not (backwards and len(node.cards) > 1):
            assert (shape.selection.gpu_policy or node.gpu_policy) != ("fragmentation",)


def test_a_pod_that_chooses_more_than_its_pool_allows_gets_no_cards_of_the_kernel() -> None:
    node = NodeState("a", 4, (Card("GPU-0", 0, MODELS[0], 8 * GIB),))
    fleet = Fleet([node])
    modest, greedy = (
        Shape(one(1).request, Selection(compute=ComputeChoice(weight=weight))) for weight in (node.compute.max_weight, 10**6)
    )
    tables = CompiledTables(NOTHING_LEARNED, fleet)
    assert native_choice(NATIVE.library, fleet, CompiledShape(modest, fleet), tables, 0) == [0]
    assert native_choice(NATIVE.library, fleet, CompiledShape(greedy, fleet), tables, 0) is None


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=150)
@given(states=fleets(), shape=shapes(least=2, most=3))
def test_the_kernel_scores_several_containers_as_the_specification(name: str, states: list[NodeState], shape: Shape) -> None:
    check(states, shape, TABLES[name])


def test_two_containers_of_one_gpu_each_are_scored_by_the_kernel() -> None:
    gpus = tuple(Card(f"GPU-{i}", i, MODELS[i % 2], 8 * GIB, used_mib=i * GIB, used_cores=i * 10, slices=1) for i in range(4))
    node = NodeState("a", 4, gpus, cpu_total=64_000, cpu_left=30_000)
    pair = PodRequest((ContainerRequest("main", 1, 30, 2 * GIB), ContainerRequest("side", 1, 5, GIB)))
    shape = Shape(pair, Selection(), 4_000)
    native, _ = both(Fleet([node]), shape, TABLES["learned"], [0])
    assert native == [by_specification(shape, node, TABLES["learned"])]


def test_the_learned_tables_are_not_trivial() -> None:
    tables = TABLES["learned"]
    assert len(tables.waste) == 2
    assert all(any(table) for table in tables.waste)
    assert tables.scarcity[MODELS[1]] > tables.scarcity[MODELS[0]] == 0
    assert tables.fed > 0
