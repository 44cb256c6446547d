"""The C kernel and numpy give the codes and permanence that ``fit.py`` gives, on any fleet and for any shape."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.compute import PRIORITIES, ComputeChoice, ComputeRules
from mica_api.request import ContainerRequest, InitRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Placement, Shape, choose
from mica_extender.placement import kernels as module
from mica_extender.placement.fit import asking_order
from mica_extender.placement.fleet import Fleet
from mica_extender.placement.kernels import CODES, FITS, UNDECIDED, CompiledShape, Kernel, KernelMissing, NumpyKernel, load_native

KERNELS: dict[str, Kernel] = {"native": load_native(), "numpy": NumpyKernel()}
GIB = 1024


@st.composite
def cards(draw: st.DrawFn) -> Card:
    memory, overcommit = draw(st.sampled_from([4, 8])) * GIB, draw(st.sampled_from([100, 100, 150]))
    slices = draw(st.integers(0, 3))
    return Card(
        "",
        0,
        draw(st.sampled_from(["NVIDIA A100", "Tesla T4"])),
        memory,
        draw(st.sampled_from([True, True, True, False])),
        used_mib=min(draw(st.integers(0, 8)) * GIB, memory) if slices else 0,
        used_cores=draw(st.sampled_from([0, 10, 50, 100])) if slices else 0,
        slices=slices,
        cordoned=draw(st.sampled_from([False, False, False, True])),
        capacity_mib=draw(st.sampled_from([0, memory * overcommit // 100])),
        core_capacity=draw(st.sampled_from([100, overcommit])),
        max_slices=draw(st.sampled_from([0, 0, 1])),
        numa=draw(st.sampled_from([None, 0, 1])),
    )


containers = st.builds(
    lambda number, cores, gib, percent: ContainerRequest(
        "c", number=number, cores=cores, memory_mib=0 if percent else gib * GIB, memory_percent=percent
    ),
    st.integers(0, 3),
    st.sampled_from([0, 20, 50, 100]),
    st.integers(0, 9),
    st.sampled_from([0, 0, 0, 25, 60]),
)
uuids = st.frozensets(st.builds(lambda n, i: f"GPU-n{n}-{i}", st.integers(0, 3), st.integers(0, 3)), max_size=3)
policies = st.sampled_from([("binpack",), ("fragmentation",), ("mutex",), ("numa", "spread"), ("topology", "mutex")])
selections = st.builds(
    lambda use, avoid, use_uuids, avoid_uuids, policy, numa_bind, compute: Selection(
        gpu_policy=policy,
        use_models=frozenset(use),
        avoid_models=frozenset(avoid),
        use_uuids=use_uuids,
        avoid_uuids=avoid_uuids,
        numa_bind=numa_bind,
        compute=compute,
    ),
    st.sampled_from([(), (), ("a100",), ("t4",), ("h100",)]),
    st.sampled_from([(), (), ("a100",)]),
    st.one_of(st.just(frozenset()), uuids),
    st.one_of(st.just(frozenset()), uuids),
    st.one_of(st.just(()), st.just(()), policies),
    st.sampled_from([False, False, True]),
    st.builds(
        lambda priority, weight: ComputeChoice(priority=priority, weight=weight),
        st.sampled_from([None, None, *PRIORITIES]),
        st.sampled_from([None, None, 1, 100, 101, 10_000]),
    ),
)
pools = st.builds(
    lambda highest, most: ComputeRules(highest_priority=highest, max_weight=most),
    st.sampled_from(["normal", *PRIORITIES]),
    st.sampled_from([100, 100, 1, 10_000]),
)


@st.composite
def fleets(draw: st.DrawFn) -> list[NodeState]:
    nodes = []
    for index in range(draw(st.integers(0, 4))):
        drawn = draw(st.lists(cards(), max_size=4))
        named = tuple(replace(card, uuid=f"GPU-n{index}-{i}", index=i) for i, card in enumerate(drawn))
        ready = draw(st.sampled_from([True, True, True, False]))
        slots, policy, compute = draw(st.integers(1, 3)), draw(policies), draw(pools)
        nodes.append(NodeState(f"n{index}", slots, named, gpu_policy=policy, ready=ready, compute=compute))
    return nodes


@st.composite
def shapes(draw: st.DrawFn, most: int = 3) -> Shape:
    drawn = draw(st.lists(containers, min_size=1, max_size=most))
    apps = tuple(replace(c, name=f"c{i}") for i, c in enumerate(drawn))
    init = tuple(InitRequest(c, draw(st.booleans())) for c in draw(st.lists(containers, max_size=1))) if most > 1 else ()
    return Shape(PodRequest(apps, init), draw(selections))


def check(kernel: Kernel, nodes: list[NodeState], shape: Shape, fleet: Fleet) -> None:
    names = [*(node.name for node in nodes), "unknown"]
    found = kernel.evaluate(fleet, CompiledShape(shape, fleet), fleet.rows(names))
    assert (CODES[found.codes[-1]], found.permanent[-1]) == ("node unregistered", 1)
    asking = len(asking_order(shape))
    for node, code, permanent in zip(nodes, found.codes.tolist(), found.permanent.tolist(), strict=False):
        verdict = choose(shape, node)
        if code == UNDECIDED:
            assert asking > 1
        elif isinstance(verdict, Placement):
            assert code == FITS
        else:
            assert (CODES[code], permanent) == (verdict.code, verdict.permanent)


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=400)
@given(nodes=fleets(), shape=shapes())
def test_a_kernel_decides_as_the_specification(name: str, nodes: list[NodeState], shape: Shape) -> None:
    check(KERNELS[name], nodes, shape, Fleet(nodes))


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=150)
@given(before=fleets(), nodes=fleets(), shape=shapes(most=1))
def test_rows_that_are_used_again_hold_nothing_of_before(
    name: str, before: list[NodeState], nodes: list[NodeState], shape: Shape
) -> None:
    fleet = Fleet(before)
    for node in before[:2]:
        fleet.drop(node.name)
    for node in nodes:
        fleet.put(node)
    check(KERNELS[name], nodes, shape, fleet)
    assert {s.name: s for s in fleet.states()} == {s.name: s for s in (*before[2:], *nodes)}


@given(nodes=fleets())
def test_a_fleet_gives_back_the_nodes_that_were_put_into_it(nodes: list[NodeState]) -> None:
    assert list(Fleet(nodes).states()) == nodes


def test_a_shape_compiled_for_a_smaller_fleet_sees_cards_that_came_later() -> None:
    shape = Shape(
        PodRequest((ContainerRequest("c", number=1),)), Selection(use_uuids=frozenset({"b"}), use_models=frozenset({"t4"}))
    )
    fleet = Fleet([NodeState("n0", 1, (Card("a", 0, "A100", 8),))])
    compiled = CompiledShape(shape, fleet)
    fleet.put(NodeState("n1", 1, (Card("b", 0, "Tesla T4", 8),)))
    for kernel in KERNELS.values():
        assert kernel.evaluate(fleet, compiled, np.array([1], np.int32)).codes.tolist() == [FITS]


def test_a_change_of_a_node_gives_it_a_higher_version_and_the_others_none() -> None:
    fleet = Fleet([NodeState(name, 1, (Card("a", 0, "A100", 8),)) for name in ("n0", "n1")])
    before = fleet.version[:2].tolist()
    fleet.charge(1, 0, memory_mib=1, cores=2, slices=1)
    assert fleet.version[:2].tolist() == [before[0], fleet.clock]
    assert fleet.clock > before[1]
    assert fleet.state(1).cards[0].used_mib == 1


def test_a_kernel_that_was_built_from_other_sources_is_refused(tmp_path: Path) -> None:
    shutil.copytree(Path(str(module.__file__)).parent / "kernel", tmp_path / "kernel")
    load_native(tmp_path / "kernel")
    with (tmp_path / "kernel" / "fleet.h").open("a") as header:
        header.write("\n")
    with pytest.raises(KernelMissing, match="make kernel"):
        load_native(tmp_path / "kernel")


def test_without_a_library_the_missing_kernel_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KernelMissing, match="make kernel"):
        load_native(tmp_path)
