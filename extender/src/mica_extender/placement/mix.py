"""What is learned from the pods seen so far, and the tables of it that scores read. No I/O, no clock, integers only.

Learned are which pods come (classes and how often), the CPU that they want per GPU, and how much of the demand is bound to a
model. The tables are made anew at epochs, geometric in the number of pods seen, so that cached scores stay warm in between.
What a level of free share is worth is found out in ``dream.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from mica_api.request import MAX_CORES, ContainerRequest
from mica_api.selection import Selection
from mica_extender.placement.dream import LEVELS, Dream
from mica_extender.placement.model import Shape

MICRO: Final = 1_000_000
"""Scores count in millionths of a GPU."""
MAX_CLASSES: Final = 512
"""Kinds of requests remembered; the rarest makes room for a new one."""
MAX_KINDS: Final = 8
"""Kinds of cards with a table of their own, the most frequent first; the others share the first one's."""
FULL: Final = 1 << 16
"""Pods counted before all counts are halved, so that the mix follows what comes now."""
MAX_STEP: Final = 8192
"""Pods between two epochs at most."""
FED_SHIFT: Final = 10
_SCARCITY: Final = 200_000
"""Millionths of a GPU that a GPU of a model costs when demand that is bound to the model equals its supply."""
_FED_TENTHS: Final = 9
"""A GPU counts as fed by nine tenths of the mean CPU per GPU of the pods seen."""


@dataclass(frozen=True, slots=True)
class CardKind:
    """Cards on which a request takes the same share. Memory in MiB (physical, and with overcommit), cores in percent."""

    memory_mib: int
    capacity_mib: int
    core_capacity: int = MAX_CORES

    def share(self, wanted: ContainerRequest) -> int:
        """Thousandths of an empty card that one slice takes; above LEVELS it does not fit, 0 never comes."""
        if wanted.exclusive:
            return LEVELS
        memory = -(-wanted.memory_on(self.memory_mib) * LEVELS // self.capacity_mib)
        return max(1, memory, -(-wanted.cores * LEVELS // self.core_capacity))


@dataclass(frozen=True, slots=True)
class Supply:
    """What the nodes have: per model the kind and number of its cards, and the CPU beside the GPUs of nodes that report it."""

    kinds: Mapping[str, CardKind] = field(default_factory=dict)
    cards: Mapping[str, int] = field(default_factory=dict)
    cpu_milli: int = 0
    cpu_gpus: int = 0


@dataclass(frozen=True, slots=True)
class Tables:
    """What scores need of the mix. ``epoch`` rises with every change of the rest.

    ``waste``: per kind of card, for each free share in thousandths, the millionths of a GPU of it that nobody will ever use.
    ``table_of``: the row of ``waste`` for a model, 0 for others. ``scarcity``: millionths that a GPU of a model costs.
    ``fed``: millionths of a GPU that a thousandth of a CPU feeds, times 2**FED_SHIFT; 0 while CPU does not count.
    """

    epoch: int = 0
    waste: tuple[tuple[int, ...], ...] = ((0,) * (LEVELS + 1),)
    table_of: Mapping[str, int] = field(default_factory=dict)
    scarcity: Mapping[str, int] = field(default_factory=dict)
    fed: int = 0

    def waste_of(self, model: str) -> tuple[int, ...]:
        """The table of a model's cards."""
        return self.waste[self.table_of.get(model, 0)]


NOTHING_LEARNED: Final = Tables()


@dataclass(frozen=True, slots=True)
class _Class:
    """Pods that count as one: what one container asks, which models it accepts, the pod's CPU divided among its containers."""

    wanted: ContainerRequest
    use_models: frozenset[str]
    avoid_models: frozenset[str]
    cpu_milli: int

    def accepts(self, model: str) -> bool:
        return Selection(use_models=self.use_models, avoid_models=self.avoid_models).accepts_model(model)


class Dreamer(Protocol):
    """The table of one kind of card, see ``dream.Dream``."""

    @property
    def waste(self) -> tuple[int, ...]:
        """By level, in millionths of a GPU."""
        ...

    @property
    def dreamt(self) -> bool:
        """Whether anything was learned yet."""
        ...

    def go_on(self, classes: Sequence[tuple[int, int]], /) -> None:
        """Learn more from (share, count) of every class."""
        ...


class Mix:
    """Counts pods and makes tables. The same pods in the same order over the same supplies give the same tables.

    ``dreamer`` begins the table of a kind of card.
    """

    def __init__(self, dreamer: Callable[[], Dreamer] = Dream) -> None:
        self._dreamer = dreamer
        self.tables = NOTHING_LEARNED
        self._counts: dict[_Class, int] = {}
        self._total = 0
        self._seen = 0
        self._next = 1
        self._due = False
        self._supply = Supply()
        self._dreams: dict[CardKind, Dreamer] = {}

    def observe(self, shape: Shape) -> None:
        """Count a pod once, when it is first seen. A pod without slices is not counted."""
        asking = [container for container in shape.request.containers if container.asks]
        if not asking:
            return
        self._seen += 1
        self._due = self._due or self._seen >= self._next
        for wanted in asking:
            selection = shape.selection
            cpu = shape.cpu_milli // len(asking)
            self._count(_Class(replace(wanted, name=""), selection.use_models, selection.avoid_models, cpu))

    def current(self, supply: Supply) -> Tables:
        """Tables for this supply; other ones than before only when an epoch has come or the supply is another."""
        if self._due or (self._seen and supply != self._supply):
            if self._due:
                self._next = self._seen + min(MAX_STEP, max(self._seen // 4, min(self._seen, 8)))
            self._make(supply, learn=self._due)
            self._due, self._supply = False, supply
        return self.tables

    def _count(self, found: _Class) -> None:
        if found not in self._counts and len(self._counts) >= MAX_CLASSES:
            rarest = min(self._counts, key=self._counts.__getitem__)
            self._total -= self._counts.pop(rarest)
        self._counts[found] = self._counts.get(found, 0) + 1
        self._total += 1
        if self._total >= FULL:
            self._counts = {one: count // 2 for one, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())

    def _make(self, supply: Supply, *, learn: bool) -> None:
        by_cards: dict[CardKind, int] = {}
        for model, kind in supply.kinds.items():
            by_cards[kind] = by_cards.get(kind, 0) + supply.cards.get(model, 0)
        kinds = sorted(by_cards, key=lambda kind: -by_cards[kind])[:MAX_KINDS]
        self._dreams = {kind: self._dreams.get(kind) or self._dreamer() for kind in kinds}
        for kind, dream in self._dreams.items():
            if learn or not dream.dreamt:
                shares = [(kind.share(one.wanted), count * one.wanted.number) for one, count in self._counts.items()]
                dream.go_on([(share, count) for share, count in shares if share <= LEVELS])
        place = {kind: at for at, kind in enumerate(kinds)}
        self.tables = Tables(
            epoch=self.tables.epoch + 1,
            waste=tuple(dream.waste for dream in self._dreams.values()) or NOTHING_LEARNED.waste,
            table_of={model: place.get(kind, 0) for model, kind in supply.kinds.items()},
            scarcity=self._scarcity(supply, kinds),
            fed=self._fed(supply, kinds),
        )

    def _demand(self, kinds: list[CardKind]) -> list[tuple[_Class, int]]:
        """Thousandths of a GPU that each class has asked for, on the most frequent kind of card."""
        if not kinds:
            return []
        return [(one, count * one.wanted.number * min(LEVELS, kinds[0].share(one.wanted))) for one, count in self._counts.items()]

    def _scarcity(self, supply: Supply, kinds: list[CardKind]) -> dict[str, int]:
        """Demand bound to a model, spread over the models it accepts by their cards, over the model's part of all cards."""
        demand = self._demand(kinds)
        asked, cards = sum(share for _, share in demand), sum(supply.cards.values())
        bound: dict[tuple[str, ...], int] = {}
        for one, share in demand:
            accepted = tuple(model for model in supply.cards if one.accepts(model))
            if 0 < len(accepted) < len(supply.cards):
                bound[accepted] = bound.get(accepted, 0) + share
        costs = dict.fromkeys(supply.cards, 0)
        for accepted, share in bound.items():
            have = sum(supply.cards[model] for model in accepted)
            for model in accepted:
                costs[model] += _SCARCITY * share * cards // (asked * have) if have else 0
        return costs

    def _fed(self, supply: Supply, kinds: list[CardKind]) -> int:
        demand = self._demand(kinds)
        gpu = sum(share for _, share in demand)
        cpu = sum(self._counts[one] * one.cpu_milli for one, _ in demand)
        # Where pods want more CPU per GPU than there is, every node starves in the end and holding back only hurts.
        if not cpu or not gpu or cpu * supply.cpu_gpus * LEVELS > supply.cpu_milli * gpu:
            return 0
        return (gpu * 10 * (MICRO // LEVELS) << FED_SHIFT) // (_FED_TENTHS * cpu)
