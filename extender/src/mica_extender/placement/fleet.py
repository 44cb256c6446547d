"""All nodes and their cards as flat arrays: what the ledger writes, one event at a time, and what the kernels read.

A struct of arrays: row ``i`` of every node column belongs to one node, whose cards are ``card_count[i]`` rows of the card columns
from ``first_card[i]`` on. Rows of nodes that are gone are free and used again. Every change of a node gives it a new, higher
``version``; a new ``layout`` says that rows have come, gone or moved. Not safe for threads, and no decision is made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mica_api.compute import rank
from mica_api.policies import NODE_POLICIES
from mica_extender.placement.model import Card, NodeState

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

HEALTHY: Final = 1
CORDONED: Final = 2
"""Bits of ``flags``."""
UNKNOWN: Final = -1
"""CPU that nobody has reported; a NUMA node that is not known."""

_NODE_COLUMNS: Final[dict[str, type[np.generic]]] = {
    "first_card": np.int32,
    "card_count": np.int32,
    "ready": np.uint8,
    "node_policy": np.int32,
    "card_policy": np.int32,
    "mutex": np.uint8,
    "weight_slot": np.int32,
    "weight_core": np.int32,
    "weight_memory": np.int32,
    "highest_class": np.int32,
    "max_weight": np.int32,
    "cpu_total": np.int64,
    "cpu_left": np.int64,
    "version": np.int64,
}
_CARD_COLUMNS: Final[dict[str, type[np.generic]]] = {
    "memory_mib": np.int64,
    "capacity_mib": np.int64,
    "used_mib": np.int64,
    "core_capacity": np.int32,
    "used_cores": np.int32,
    "slices": np.int32,
    "card_max_slices": np.int32,
    "flags": np.uint8,
    "model": np.int32,
    "numa": np.int32,
}


class Fleet:
    """Nodes, their cards and what is taken of them.

    Node columns: ``first_card``, ``card_count``, ``ready``, ``node_policy`` (position in NODE_POLICIES),
    ``card_policy`` (id in ``card_policies``), ``mutex`` (whether that policy holds it), ``weight_slot``, ``weight_core``,
    ``weight_memory`` (of the pool; all 0: the fullest counts), ``highest_class`` (rank) and ``max_weight`` (of the compute,
    what a pod may choose), ``cpu_total`` and ``cpu_left`` (milli-CPU, UNKNOWN when nobody reports it), ``version``.
    Card columns: ``memory_mib`` (physical), ``capacity_mib`` (with overcommit), ``used_mib``, ``core_capacity`` (percent, with
    overcommit), ``used_cores``, ``slices``, ``card_max_slices``, ``flags``, ``model`` (id in ``models``), ``numa``.
    Columns are replaced when they grow: read them from the fleet each time, and write them through its methods only.
    """

    first_card: Int32
    card_count: Int32
    ready: Bytes
    node_policy: Int32
    card_policy: Int32
    mutex: Bytes
    weight_slot: Int32
    weight_core: Int32
    weight_memory: Int32
    highest_class: Int32
    max_weight: Int32
    cpu_total: Int64
    cpu_left: Int64
    version: Int64
    memory_mib: Int64
    capacity_mib: Int64
    used_mib: Int64
    core_capacity: Int32
    used_cores: Int32
    slices: Int32
    card_max_slices: Int32
    flags: Bytes
    model: Int32
    numa: Int32

    def __init__(self, nodes: Iterable[NodeState] = ()) -> None:
        self.index: dict[str, int] = {}
        """Row of each node by name."""
        self.names: list[str] = []
        """Name by row; empty for a free row."""
        self.encoded: list[bytes] = []
        """Name as JSON by row, quotes included."""
        self.models: list[str] = []
        self.card_policies: list[tuple[str, ...]] = []
        self.uuids: list[str] = []
        """UUID by card row; empty for a free row."""
        self.clock = 0
        """Highest version given so far: as long as it is the same, nothing at all has changed."""
        self.layout = 0
        self.naming = 0
        """Rises when a name gets a row or loses it."""
        self.placing = 0
        """Rises when columns are replaced by larger ones."""
        self.in_order: list[bool] = []
        """By row: whether the node's cards stand in the order of their indices and UUIDs, which decides between equal ones."""
        self._model_ids: dict[str, int] = {}
        self._card_policy_ids: dict[tuple[str, ...], int] = {}
        self._blank: list[NodeState | None] = []
        self._free_rows: list[int] = []
        self._free_cards: dict[int, list[int]] = {}
        for column, kind in (_NODE_COLUMNS | _CARD_COLUMNS).items():
            setattr(self, column, np.zeros(0, kind))
        for node in nodes:
            self.put(node)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def node_rows(self) -> int:
        """Rows of the node columns that are or were in use."""
        return len(self.names)

    @property
    def card_rows(self) -> int:
        """Rows of the card columns that are or were in use."""
        return len(self.uuids)

    def put(self, node: NodeState) -> int:
        """Add a node or put another state in its place, with what ``node.cards`` say is taken. Its row."""
        row = self.index.get(node.name)
        if row is not None and int(self.card_count[row]) != len(node.cards):
            self._give_back_cards(row)
            self._take_cards(row, len(node.cards))
        elif row is None:
            row = self._take_row(node.name)
            self._take_cards(row, len(node.cards))
        first = int(self.first_card[row])
        before = self._blank[row]
        blank = replace(node, cards=tuple(_empty(card) for card in node.cards))
        if before is None or before.cards != blank.cards or before.cpu_total != blank.cpu_total:
            self.layout += 1
            self.uuids[first : first + len(node.cards)] = [card.uuid for card in node.cards]
            places = [(card.index, card.uuid) for card in node.cards]
            self.in_order[row] = places == sorted(places)
        self._blank[row] = blank
        self.ready[row] = node.ready
        self.node_policy[row] = NODE_POLICIES.index(node.node_policy)
        self.card_policy[row] = self.card_policy_id(node.gpu_policy)
        self.mutex[row] = "mutex" in node.gpu_policy
        weights = (node.weights.slot, node.weights.core, node.weights.memory) if node.weights else (0, 0, 0)
        self.weight_slot[row], self.weight_core[row], self.weight_memory[row] = weights
        self.highest_class[row], self.max_weight[row] = rank(node.compute.highest_priority), node.compute.max_weight
        self.cpu_total[row], self.cpu_left[row] = node.cpu_total, node.cpu_left
        for at, card in enumerate(node.cards, start=first):
            self._write_card(at, card, node)
        self.touch(row)
        return row

    def drop(self, name: str) -> None:
        """Forget a node; nothing happens when it is not known."""
        row = self.index.pop(name, None)
        if row is None:
            return
        self._give_back_cards(row)
        self.names[row], self.encoded[row], self._blank[row] = "", b"", None
        self.ready[row] = 0
        self._free_rows.append(row)
        self.layout += 1
        self.naming += 1
        self.touch(row)

    def charge(self, row: int, card: int, *, memory_mib: int, cores: int, slices: int) -> None:
        """Add to what is taken of the node's card at position ``card``; negative amounts give back."""
        at = int(self.first_card[row]) + card
        self.used_mib[at] += memory_mib
        self.used_cores[at] += cores
        self.slices[at] += slices
        self.touch(row)

    def set_cpu_left(self, row: int, left: int) -> None:
        """CPU of the node that is left, in milli; UNKNOWN when nobody reports it."""
        if int(self.cpu_left[row]) != left:
            self.cpu_left[row] = left
            self.touch(row)

    def touch(self, row: int) -> None:
        """Say that the node has changed."""
        self.clock += 1
        self.version[row] = self.clock

    def state(self, row: int) -> NodeState:
        """The node as a value, as it is now. Raises KeyError for a free row."""
        blank = self._blank[row]
        if blank is None:
            raise KeyError(row)
        first = int(self.first_card[row])
        rows = slice(first, first + len(blank.cards))
        used = zip(self.used_mib[rows].tolist(), self.used_cores[rows].tolist(), self.slices[rows].tolist(), strict=True)
        cards = tuple(
            replace(card, used_mib=mib, used_cores=cores, slices=count) if mib or cores or count else card
            for card, (mib, cores, count) in zip(blank.cards, used, strict=True)
        )
        return replace(blank, cards=cards, cpu_left=int(self.cpu_left[row]))

    def states(self) -> Iterator[NodeState]:
        """All nodes as values, in no particular order."""
        for row in list(self.index.values()):
            yield self.state(row)

    def rows(self, names: Iterable[str]) -> Int32:
        """Rows of the nodes with these names, -1 for one that is not known."""
        get = self.index.get
        return np.fromiter((get(name, -1) for name in names), np.int32)

    def card_policy_id(self, policy: tuple[str, ...]) -> int:
        """Id of a card policy in ``card_policies``; a new one is added."""
        known = self._card_policy_ids.get(policy)
        if known is None:
            known = self._card_policy_ids[policy] = len(self.card_policies)
            self.card_policies.append(policy)
        return known

    def _write_card(self, at: int, card: Card, node: NodeState) -> None:
        self.memory_mib[at] = card.memory_mib
        self.capacity_mib[at] = card.total_mib
        self.used_mib[at] = card.used_mib
        self.core_capacity[at] = card.core_capacity
        self.used_cores[at] = card.used_cores
        self.slices[at] = card.slices
        self.card_max_slices[at] = card.slots(node.max_slices)
        self.flags[at] = (HEALTHY if card.healthy else 0) | (CORDONED if card.cordoned else 0)
        self.model[at] = self._model_id(card.model)
        self.numa[at] = UNKNOWN if card.numa is None else card.numa

    def _model_id(self, model: str) -> int:
        known = self._model_ids.get(model)
        if known is None:
            known = self._model_ids[model] = len(self.models)
            self.models.append(model)
            self.layout += 1
        return known

    def _take_row(self, name: str) -> int:
        if self._free_rows:
            row = self._free_rows.pop()
        else:
            row = len(self.names)
            self.names.append("")
            self.encoded.append(b"")
            self._blank.append(None)
            self.in_order.append(True)
            self._grow(_NODE_COLUMNS, row + 1)
        self.names[row], self.encoded[row] = name, json.dumps(name, ensure_ascii=False).encode()
        self.index[name] = row
        self.layout += 1
        self.naming += 1
        return row

    def _take_cards(self, row: int, count: int) -> None:
        """Rows side by side: those of a node of the same size that is gone, or new ones."""
        free = self._free_cards.get(count)
        if free:
            first = free.pop()
        else:
            first = len(self.uuids)
            self.uuids.extend([""] * count)
            self._grow(_CARD_COLUMNS, first + count)
        self.first_card[row], self.card_count[row] = first, count
        self.layout += 1

    def _give_back_cards(self, row: int) -> None:
        first, count = int(self.first_card[row]), int(self.card_count[row])
        self.uuids[first : first + count] = [""] * count
        self._free_cards.setdefault(count, []).append(first)
        self.card_count[row] = 0
        self._blank[row] = None

    def _grow(self, columns: dict[str, type[np.generic]], size: int) -> None:
        for column in columns:
            old: npt.NDArray[Any] = getattr(self, column)
            if len(old) < size:
                new = np.zeros(max(64, size, 2 * len(old)), old.dtype)
                new[: len(old)] = old
                setattr(self, column, new)
                self.placing += 1


def _empty(card: Card) -> Card:
    return replace(card, used_mib=0, used_cores=0, slices=0)
