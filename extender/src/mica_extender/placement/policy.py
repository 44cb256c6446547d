"""Which of the cards that can take a slice a container gets: card policies as sort keys and choosers of whole sets.

All keys are integers (fullness in millionths), so that a kernel in another language ranks cards alike. Whether a card can take
the slice at all, policy ``mutex`` included, is ``check``'s question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from mica_api.policies import DEFAULT_CARD_POLICY, CardPolicy, Weights
from mica_api.request import ContainerRequest
from mica_extender.placement.model import Card, NodeState, Shape
from mica_extender.placement.numa import fewest_nodes
from mica_extender.placement.topology import best_set, pair_rates

PPM: Final = 1_000_000
"""A card with nothing left is this full."""
Key = tuple[int, ...]
_Parts = tuple[int, int, int]


class CardCost(Protocol):
    """What policy ``fragmentation`` compares: ``fragmentation.card_key`` with the tables of a mix."""

    def __call__(self, card: Card, /, *, wanted: ContainerRequest, max_slices: int) -> Key:
        """Sort key of a card for a slice of the container, best first; of one length for all cards."""
        ...


def fullness(card: Card, max_slices: int, weights: Weights | None) -> int:
    """How full a card is, 0 to PPM: the fullest of slices, cores and memory, or with weights their weighted mean."""
    return _full(_parts(card, max_slices, None), weights)


def _parts(card: Card, max_slices: int, wanted: ContainerRequest | None) -> _Parts:
    """Slices, cores and memory taken of a card in millionths, with a slice of the container on it."""
    slices, cores, mib = card.slices, card.used_cores, card.used_mib
    if wanted is not None:
        slices, cores, mib = slices + 1, cores + card.cores_of(wanted.cores), mib + wanted.memory_on(card.memory_mib)
    return slices * PPM // card.slots(max_slices), cores * PPM // card.core_capacity, mib * PPM // card.total_mib


def _full(parts: _Parts, weights: Weights | None) -> int:
    if weights is None:
        return max(parts)
    slices, cores, memory = parts
    total = weights.slot + weights.core + weights.memory
    return (weights.slot * slices + weights.core * cores + weights.memory * memory) // total


def effective_weights(shape: Shape, node: NodeState) -> Weights | None:
    """The pod's scoring weights, or else its pool's."""
    return shape.selection.weights or node.weights


@dataclass(frozen=True, slots=True)
class Plan:
    """An ordered list of card policies taken apart: sort keys before and after ``numa``, all of them, and what else is in it."""

    before: tuple[CardPolicy, ...]
    after: tuple[CardPolicy, ...]
    keys: tuple[CardPolicy, ...]
    numa: bool
    mutex: bool
    topology: bool


@lru_cache(maxsize=1024)
def plan(policies: tuple[CardPolicy, ...]) -> Plan:
    """Take a list apart. Without any sort key the default's rank the cards, unless ``topology`` chooses them."""
    topology = "topology" in policies
    keys = tuple(p for p in policies if p not in ("mutex", "topology"))
    if not topology and not set(keys) - {"numa"}:
        keys += DEFAULT_CARD_POLICY
    at = keys.index("numa") if "numa" in keys else len(keys)
    before, after = keys[:at], keys[at + 1 :]
    return Plan(before, after, before + after, "numa" in keys, "mutex" in policies, topology)


class Ranked(NamedTuple):
    """A card with its sort keys: ``head`` is compared before NUMA nodes are, ``tail`` after; ``place`` decides what is left."""

    card: Card
    head: Key
    tail: Key
    place: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Chooser:
    """Ranks cards for one container. ``own``: cards, by UUID, that the pod pays for already and an init container takes first."""

    wanted: ContainerRequest
    plan: Plan
    node: NodeState
    weights: Weights | None
    cost: CardCost | None = None
    own: frozenset[str] = frozenset()

    def ranked(self, cards: Sequence[Card]) -> list[Ranked]:
        """The cards, best first by sort keys alone; the card's index and UUID decide what they leave open."""
        return sorted((self._ranked(card) for card in cards), key=lambda one: (one.head, one.tail, one.place))

    def best(self, ranked: Sequence[Ranked], number: int) -> tuple[Card, ...]:
        """The best set of ``number`` of the ranked cards, of which there are enough."""
        if self.plan.topology:
            mine = [one.card for one in ranked if one.card.uuid in self.own]
            if not self.own:
                return best_set([one.card for one in ranked], number)
            if len(mine) >= number:
                return best_set(mine, number)
        if self.plan.numa and number > 1:
            return _spanning_fewest(ranked, number)
        return tuple(one.card for one in ranked[:number])

    def quality(self, chosen: Sequence[Card], ranked: Sequence[Ranked]) -> tuple[object, ...]:
        """Sort key of sets that were chosen from different cards, best first."""
        if self.plan.topology:
            rates = int(pair_rates(chosen if len(chosen) > 1 else [one.card for one in ranked]).sum())
            return (-rates if len(chosen) > 1 else rates, sorted(card.uuid for card in chosen))
        of = {one.card.uuid: one for one in ranked}
        mine = [of[card.uuid] for card in chosen]
        return ([(one.head, one.tail) for one in mine], [one.place for one in mine])

    def _ranked(self, card: Card) -> Ranked:
        parts = _parts(card, self.node.max_slices, self.wanted)
        before, after = self.plan.before, self.plan.after
        head = (int(card.uuid not in self.own), *(part for key in before for part in self._key(key, card, parts)))
        tail = (*(part for key in after for part in self._key(key, card, parts)), *self._ties(parts))
        return Ranked(card, head, tail, (0 if self.plan.topology else card.index, card.uuid))

    def _key(self, policy: CardPolicy, card: Card, parts: _Parts) -> Key:
        if policy == "fragmentation" and self.cost is not None:
            return self.cost(card, wanted=self.wanted, max_slices=self.node.max_slices)
        full = _full(parts, self.weights)
        if policy == "fragmentation":
            return (-full, -sum(parts))
        return (full,) if policy == "spread" else (-full,)

    def _ties(self, parts: _Parts) -> Key:
        """All dimensions together where the fullest, or the mean, of two cards is equal."""
        if "spread" in self.plan.keys:
            return (sum(parts),)
        return (-sum(parts),) if "binpack" in self.plan.keys else ()


def _spanning_fewest(ranked: Sequence[Ranked], number: int) -> tuple[Card, ...]:
    """The best heads; of the cards whose heads are equal those that make the fewest NUMA nodes; then the best tails."""
    boundary = ranked[number - 1].head
    settled = [one.card for one in ranked if one.head < boundary]
    tied = [one for one in ranked if one.head == boundary]
    spanned = {card.numa for card in settled}
    more = fewest_nodes([one.card for one in tied], [one.tail for one in tied], number - len(settled), spanned)
    return (*settled, *more)
