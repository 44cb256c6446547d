"""Scores of many nodes for one shape as ``score.py`` gives them: by the C kernel, or by numpy to the same integers.

A score of UNSCORED is one that only ``score.py`` can tell after ``fit.py`` has chosen the cards: several asking containers, card
policies other than ``fragmentation`` under the node policy ``fragmentation``, unlike cards side by side under another one.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mica_api.policies import NODE_POLICIES
from mica_api.request import MAX_CORES, ContainerRequest
from mica_extender.placement.dream import LEVELS
from mica_extender.placement.fleet import CORDONED, HEALTHY, Fleet, Int32, Int64
from mica_extender.placement.kernels import (
    FITS,
    MAX_NODE_CARDS,
    CompiledShape,
    card_codes,
    cards_of,
    mutex_of,
    native_fleet,
    pointer,
)
from mica_extender.placement.mix import FED_SHIFT, MICRO, CardKind, Supply, Tables
from mica_extender.placement.score import LEFT_CPU, LEFT_GPU, LEFTOVER, MAX_SCORE, MIDDLE

UNSCORED: Final = -1
_FRAGMENTATION: Final = NODE_POLICIES.index("fragmentation")
_BINPACK: Final = NODE_POLICIES.index("binpack")


class _Mix(ctypes.Structure):
    _fields_ = (
        ("waste", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("scarcity", ctypes.c_void_p),
        ("fed", ctypes.c_int64),
        ("card_policy", ctypes.c_int32),
    )


class CompiledTables:
    """The mix's tables in the words of one fleet. Valid as long as the fleet's layout is the same."""

    def __init__(self, tables: Tables, fleet: Fleet) -> None:
        self.tables = tables
        self.layout = fleet.layout
        models = fleet.models or [""]
        self.waste: Int64 = np.array(tables.waste, np.int64).ravel()
        self.first: Int64 = np.array([tables.table_of.get(model, 0) * (LEVELS + 1) for model in models], np.int64)
        self.scarcity: Int64 = np.array([tables.scarcity.get(model, 0) for model in models], np.int64)
        self.card_policy = fleet.card_policy_id(("fragmentation",))
        self.native = _Mix(
            waste=self.waste.ctypes.data,
            first=self.first.ctypes.data,
            scarcity=self.scarcity.ctypes.data,
            fed=tables.fed,
            card_policy=self.card_policy,
        )

    def refresh(self, fleet: Fleet) -> CompiledTables:
        """These tables, fit for the fleet as it is now."""
        return self if self.layout == fleet.layout else CompiledTables(self.tables, fleet)


def supply_of(fleet: Fleet) -> Supply:
    """Cards by model and CPU beside GPUs of all nodes. A model's kind is that of its first card."""
    rows = np.array(sorted(fleet.index.values()), np.int64)
    counts = fleet.card_count[rows] if len(rows) else np.zeros(0, np.int32)
    cards, _ = cards_of(fleet, rows)
    models, at, number = np.unique(fleet.model[cards], return_index=True, return_counts=True)
    kinds, many = {}, {}
    for model, card, count in zip(models.tolist(), cards[at].tolist(), number.tolist(), strict=True):
        name = fleet.models[model]
        capacity, cores = int(fleet.capacity_mib[card]), int(fleet.core_capacity[card])
        kinds[name], many[name] = CardKind(int(fleet.memory_mib[card]), capacity, cores), count
    known = (fleet.cpu_total[rows] > 0) if len(rows) else np.zeros(0, np.bool_)
    return Supply(kinds, many, int(fleet.cpu_total[rows[known]].sum()), int(counts[known].sum()))


def native_scores(library: ctypes.CDLL, fleet: Fleet, shape: CompiledShape, tables: CompiledTables, rows: Int32) -> Int64:
    """Scores of nodes on which the pod fits, by the C kernel."""
    codes, scores = np.zeros(len(rows), np.uint8), np.empty(len(rows), np.int64)
    rows = np.ascontiguousarray(rows, np.int32)
    tables = tables.refresh(fleet)  # a name of their own: the pointers do not keep them alive
    done = library.mica_score(
        *(ctypes.byref(native_fleet(fleet)), ctypes.byref(shape.refresh(fleet).native)),
        ctypes.byref(tables.native),
        *(pointer(rows), ctypes.c_int64(len(rows)), pointer(codes), pointer(scores)),
    )
    return scores if done == 0 else np.full(len(rows), UNSCORED, np.int64)


def native_choice(library: ctypes.CDLL, fleet: Fleet, shape: CompiledShape, tables: CompiledTables, row: int) -> list[int] | None:
    """Positions of the cards that ``fit.choose`` takes on a node, by the C kernel; None where only ``fit.choose`` can tell."""
    if not fleet.in_order[row]:
        return None
    cards = (ctypes.c_int32 * MAX_NODE_CARDS)()
    count = library.mica_choose(
        *(ctypes.byref(native_fleet(fleet)), ctypes.byref(shape.refresh(fleet).native)),
        *(ctypes.byref(tables.native), ctypes.c_int32(row), cards),
    )
    return None if count < 0 else cards[:count]


def numpy_scores(fleet: Fleet, shape: CompiledShape, tables: CompiledTables, rows: Int32) -> Int64:
    """Scores of nodes on which the pod fits, by numpy."""
    shape.refresh(fleet)
    if len(shape.containers) > 1 or shape.shape.selection.numa_bind or not len(rows):
        return np.full(len(rows), UNSCORED, np.int64)
    own, own_cards = shape.native.node_policy, shape.native.card_policy
    policies = fleet.node_policy[rows] if own < 0 else np.full(len(rows), own, np.int32)
    cards = fleet.card_policy[rows] if own_cards < 0 else np.full(len(rows), own_cards, np.int32)
    wanted = shape.containers[0] if shape.containers else None
    scores = np.full(len(rows), UNSCORED, np.int64)
    gradient = policies == _FRAGMENTATION
    by_table = np.flatnonzero(gradient & ((cards == tables.card_policy) | (wanted is None)))
    scores[by_table] = MIDDLE - _fragmentation(fleet, shape, tables.refresh(fleet), rows[by_table], wanted)
    by_fullness = np.flatnonzero(~gradient)
    full, decided = _fullness(fleet, shape, rows[by_fullness], wanted)
    gain = np.where(policies[by_fullness] == _BINPACK, full, MICRO - full) - MICRO // 2
    scores[by_fullness] = np.where(decided, MIDDLE + gain, UNSCORED)
    scores[fleet.card_count[rows] > MAX_NODE_CARDS] = UNSCORED
    return np.where(scores == UNSCORED, UNSCORED, np.clip(scores, 0, MAX_SCORE))


def _fragmentation(
    fleet: Fleet, shape: CompiledShape, tables: CompiledTables, rows: Int32, wanted: ContainerRequest | None
) -> Int64:
    nodes = len(rows)
    cards, owner = cards_of(fleet, rows)
    share = _share(fleet, cards, fleet.used_mib[cards], fleet.used_cores[cards])
    free = _sums(owner, share, nodes)
    left, cost = free.copy(), np.zeros(nodes, np.int64)
    if wanted is not None:
        fits = np.flatnonzero(card_codes(fleet, shape, wanted, cards, mutex_of(fleet, shape, rows)[owner]) == FITS)
        at, of, before = cards[fits], owner[fits], share[fits]
        after = _share(
            fleet, at, fleet.used_mib[at] + _memory(fleet, at, wanted), fleet.used_cores[at] + _cores(fleet, at, wanted)
        )
        loss = _waste(fleet, tables, at, after, 1) - _waste(fleet, tables, at, before, 0)
        loss += tables.scarcity[fleet.model[at]] * (before - after) // LEVELS
        order = np.lexsort((after, before, loss, of))
        first = np.searchsorted(of[order], np.arange(nodes))
        chosen = order[np.arange(len(order)) - first[of[order]] < wanted.number]
        left -= _sums(of[chosen], before[chosen] - after[chosen], nodes)
        cost += _sums(of[chosen], loss[chosen], nodes)
    cost += left * LEFTOVER // LEFT_GPU
    cpu = fleet.cpu_left[rows]
    cpu_then = np.maximum(cpu - shape.shape.cpu_milli, 0)
    by_cpu = cpu_then * LEFTOVER // LEFT_CPU
    if tables.tables.fed:
        by_cpu = by_cpu + _starved(left, cpu_then, tables.tables.fed) - _starved(free, cpu, tables.tables.fed)
    return np.where(cpu >= 0, cost + by_cpu, cost)


def _fullness(
    fleet: Fleet, shape: CompiledShape, rows: Int32, wanted: ContainerRequest | None
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Fullness after the placement, and where it does not depend on the choice of cards."""
    nodes = len(rows)
    counts = fleet.card_count[rows]
    cards, owner = cards_of(fleet, rows)
    taken: list[npt.NDArray[Any]] = [fleet.slices[cards], fleet.used_cores[cards], fleet.used_mib[cards]]
    total: list[npt.NDArray[Any]] = [fleet.card_max_slices[cards], fleet.core_capacity[cards], fleet.capacity_mib[cards]]
    sums = [_sums(owner, column.astype(np.int64), nodes) for column in taken]
    decided = np.ones(nodes, np.bool_)
    if wanted is not None and len(cards):
        heads = np.repeat(fleet.first_card[rows], counts)
        unlike = (fleet.memory_mib[cards] != fleet.memory_mib[heads]) | (fleet.core_capacity[cards] != fleet.core_capacity[heads])
        decided = _sums(owner, unlike.astype(np.int64), nodes) == 0
        head = fleet.first_card[rows].astype(np.int64)
        each: list[Any] = [1, _cores(fleet, head, wanted), _memory(fleet, head, wanted)]
        sums = [column + wanted.number * one for column, one in zip(sums, each, strict=True)]
    totals = [_sums(owner, column.astype(np.int64), nodes) for column in total]
    parts = [
        np.where(whole > 0, np.minimum(MICRO, column * MICRO // np.maximum(whole, 1)), 0)
        for column, whole in zip(sums, totals, strict=True)
    ]
    own = list(shape.native.weights)
    columns = (fleet.weight_slot, fleet.weight_core, fleet.weight_memory)
    weights = [np.full(nodes, one, np.int64) if any(own) else column[rows] for one, column in zip(own, columns, strict=True)]
    weight: Int64 = np.add.reduce(weights).astype(np.int64)
    weighted: Int64 = np.add.reduce([each * one for each, one in zip(weights, parts, strict=True)])
    return np.where(weight > 0, weighted // np.maximum(weight, 1), np.maximum.reduce(parts)), decided


def _share(fleet: Fleet, cards: Int64, used_mib: Int64, used_cores: npt.NDArray[np.signedinteger]) -> Int64:
    capacity, cores = fleet.capacity_mib[cards], fleet.core_capacity[cards].astype(np.int64)
    usable = (fleet.flags[cards] & (HEALTHY | CORDONED)) == HEALTHY
    memory = np.maximum(capacity - used_mib, 0) * LEVELS // np.maximum(capacity, 1)
    return np.where(usable, np.minimum(memory, np.maximum(cores - used_cores, 0) * LEVELS // np.maximum(cores, 1)), 0)


def _waste(fleet: Fleet, tables: CompiledTables, cards: Int64, share: Int64, more: int) -> Int64:
    closed = fleet.slices[cards] + more >= fleet.card_max_slices[cards]
    return np.where(closed, share * (MICRO // LEVELS), tables.waste[tables.first[fleet.model[cards]] + share])


def _starved(free: Int64, cpu: Int64, fed: int) -> Int64:
    return np.maximum(0, free * (MICRO // LEVELS) - (cpu * fed >> FED_SHIFT))


def _memory(fleet: Fleet, cards: Int64, wanted: ContainerRequest) -> Int64:
    physical = fleet.memory_mib[cards]
    if wanted.memory_percent:
        return physical * wanted.memory_percent // 100
    return np.full(len(cards), wanted.memory_mib, np.int64) if wanted.memory_mib else physical


def _cores(fleet: Fleet, cards: Int64, wanted: ContainerRequest) -> Int64:
    if wanted.cores >= MAX_CORES:
        return fleet.core_capacity[cards].astype(np.int64)
    return np.full(len(cards), wanted.cores, np.int64)


def _sums(owner: Int64, values: npt.NDArray[np.signedinteger], nodes: int) -> Int64:
    """Sums by owner. In 64-bit integers, which ``bincount`` with weights is not."""
    sums = np.zeros(nodes, np.int64)
    np.add.at(sums, owner, values)
    return sums
