"""Whether a pod fits on a node, and on which cards.

A container gets distinct cards; containers of one pod may share a card. One asking container is decided exactly by taking the
best cards; several are decided by a search that goes back when the best cards of one leave too little for another. What cannot
fit by its sums is not searched for, and a search is given up after SEARCH_BUDGET combinations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mica_api.allocation import GPUShare
from mica_api.request import MAX_CORES, ContainerRequest
from mica_api.selection import Policy
from mica_extender.placement.model import Card, Code, NodeState, Placement, Rejection, Shape, Verdict

SEARCH_BUDGET: Final = 500
"""Card combinations tried for one pod on one node; a pod of many containers that exceeds it counts as not fitting."""

_Look = tuple[int, int, int, int]

_SHORTAGES: Final = (
    Code.INSUFFICIENT_MEMORY,
    Code.INSUFFICIENT_CORE,
    Code.EXCLUSIVE_CONFLICT,
    Code.SLICES_EXHAUSTED,
)
_SAID_FIRST: Final = (*_SHORTAGES, Code.NOT_HEALTHY, Code.UUID_MISMATCH, Code.TYPE_MISMATCH, Code.INSUFFICIENT_DEVICE)


class Found(NamedTuple):
    """A verdict, the card combinations tried for it, and whether the search was given up before it had tried them all."""

    verdict: Verdict
    tried: int = 0
    given_up: bool = False


def choose(shape: Shape, node: NodeState) -> Verdict:
    """Cards for every container under the pod's card policy or else the node's, or why there are none."""
    return search(shape, node).verdict


def search(shape: Shape, node: NodeState, *, budget: int = SEARCH_BUDGET) -> Found:
    """``choose``, and what it cost. At least one combination per container is tried, which is all that one container needs."""
    if not node.ready:
        return Found(Rejection(Code.UNREGISTERED))
    containers = shape.request.containers
    wanted = [(i, containers[i]) for i in _order(shape)]
    # What cannot fit is tried once all the same: the first dead end is what names the shortage.
    possible = len(wanted) < 2 or _sums_allow(shape, node, [request for _, request in wanted])
    left = max(budget, len(wanted)) if possible else len(wanted)
    work = _Search(shape, node, shape.selection.gpu_policy or node.gpu_policy, left)
    found = work.run(wanted, node.cards)
    tried = left - work.left
    if found is None:
        verdict = work.rejection or Rejection(Code.INSUFFICIENT_DEVICE, cards=len(node.cards))
        return Found(verdict, tried, given_up=possible and work.exhausted)
    return Found(Placement(tuple(found.get(i, ()) for i in range(len(containers)))), tried)


def check_card(card: Card, *, wanted: ContainerRequest, shape: Shape, max_slices: int) -> Code | None:
    """The first check that a card fails for one container, or None when it can take a slice."""
    memory = wanted.memory_on(card.memory_mib)
    if not card.healthy:
        return Code.NOT_HEALTHY
    if not shape.selection.accepts_model(card.model):
        return Code.TYPE_MISMATCH
    if not shape.selection.accepts_uuid(card.uuid):
        return Code.UUID_MISMATCH
    if card.slices >= max_slices:
        return Code.SLICES_EXHAUSTED
    if wanted.exclusive and not card.empty:
        return Code.EXCLUSIVE_CONFLICT
    if memory < 1 or card.used_mib + memory > card.memory_mib:
        return Code.INSUFFICIENT_MEMORY
    if card.used_cores >= MAX_CORES or card.used_cores + wanted.cores > MAX_CORES:
        return Code.INSUFFICIENT_CORE
    return None


def card_rank(card: Card, *, wanted: ContainerRequest, policy: Policy, max_slices: int) -> tuple[object, ...]:
    """Sort key of feasible cards, best first: the fullest after placement for binpack, the emptiest for spread.

    The fullest dimension decides, then all dimensions together, then the card's index.
    """
    after = card.plus(memory_mib=wanted.memory_on(card.memory_mib), cores=wanted.cores)
    sign = -1 if policy == "binpack" else 1
    return (sign * after.utilisation(max_slices), sign * after.load(max_slices), card.index, card.uuid)


@dataclass(slots=True)
class _Search:
    """State of one search: the combinations left and the first dead end, which is the one that names the shortage."""

    shape: Shape
    node: NodeState
    policy: Policy
    left: int
    exhausted: bool = False
    rejection: Rejection | None = field(default=None)

    def run(
        self, wanted: Sequence[tuple[int, ContainerRequest]], cards: Sequence[Card]
    ) -> dict[int, tuple[GPUShare, ...]] | None:
        """Shares by container index, or None."""
        if not wanted:
            return {}
        index, request = wanted[0]
        codes = [check_card(c, wanted=request, shape=self.shape, max_slices=self.node.max_slices) for c in cards]
        feasible = [card for card, code in zip(cards, codes, strict=True) if code is None]
        if len(feasible) < request.number:
            self.rejection = self.rejection or _reject(self.shape, request, cards, codes)
            return None
        for chosen in self._combinations(request, feasible):
            rest = self.run(wanted[1:], _after(cards, chosen, request))
            if rest is not None:
                return {index: tuple(_share(card, request) for card in chosen), **rest}
        return None

    def _combinations(self, request: ContainerRequest, feasible: list[Card]) -> Iterator[tuple[Card, ...]]:
        """Best first; of combinations that look alike to the containers still to come, only the first."""
        ranked = sorted(feasible, key=lambda c: card_rank(c, wanted=request, policy=self.policy, max_slices=self.node.max_slices))
        seen: set[tuple[_Look, ...]] = set()
        for chosen in _distinct(ranked, request.number):
            if self.left == 0:
                self.exhausted = True
                return
            self.left -= 1
            looks = tuple(sorted(_look(card) for card in chosen))
            if looks not in seen:
                seen.add(looks)
                yield chosen


def _distinct(ranked: Sequence[Card], number: int) -> Iterator[tuple[Card, ...]]:
    """Combinations in the order of ``itertools``, without those that only swap a card for its look-alike beside it."""
    if number == 0:
        yield ()
        return
    passed: set[_Look] = set()
    for index, card in enumerate(ranked[: len(ranked) - number + 1]):
        if (look := _look(card)) not in passed:
            passed.add(look)
            for rest in _distinct(ranked[index + 1 :], number - 1):
                yield (card, *rest)


def _look(card: Card) -> _Look:
    return (card.memory_mib, card.used_mib, card.used_cores, card.slices)


def _sums_allow(shape: Shape, node: NodeState, wanted: Sequence[ContainerRequest]) -> bool:
    """Necessary, not sufficient: all containers together want no more than the cards that any of them can use still have.

    Looked at are the memory, the cores, the number of shares (each at least as large as the smallest) and the empty cards.
    """
    usable = [
        card
        for card in node.cards
        if any(check_card(card, wanted=one, shape=shape, max_slices=node.max_slices) is None for one in wanted)
    ]
    if not usable:
        return False
    smallest = min(card.memory_mib for card in usable)
    room = sum(_most_shares(card, wanted, node.max_slices) for card in usable)
    return (
        sum(one.number * one.memory_on(smallest) for one in wanted) <= sum(card.memory_mib - card.used_mib for card in usable)
        and sum(one.number * one.cores for one in wanted) <= sum(MAX_CORES - card.used_cores for card in usable)
        and sum(one.number for one in wanted) <= room
        and sum(one.number for one in wanted if one.exclusive) <= sum(card.empty for card in usable)
    )


def _most_shares(card: Card, wanted: Sequence[ContainerRequest], max_slices: int) -> int:
    """How many shares of the containers the card could take if all were as small as the smallest, each container one."""
    memory = max(1, min(one.memory_on(card.memory_mib) for one in wanted))
    cores = min(one.cores for one in wanted)
    counts = [len(wanted), max_slices - card.slices, (card.memory_mib - card.used_mib) // memory]
    if cores:
        counts.append((MAX_CORES - card.used_cores) // cores)
    return min(counts)


def asking_order(shape: Shape) -> tuple[ContainerRequest, ...]:
    """The containers that ask for slices in the order in which they are placed: the hardest first."""
    return tuple(shape.request.containers[i] for i in _order(shape))


def _order(shape: Shape) -> list[int]:
    containers = shape.request.containers
    return sorted((i for i, c in enumerate(containers) if c.asks), key=lambda i: _hardness(containers[i]), reverse=True)


def _hardness(wanted: ContainerRequest) -> tuple[bool, bool, int, int, int]:
    whole_memory = not wanted.memory_mib and wanted.memory_percent in (0, 100)
    return (wanted.exclusive, whole_memory, wanted.number, max(wanted.memory_mib, wanted.memory_percent), wanted.cores)


def _share(card: Card, wanted: ContainerRequest) -> GPUShare:
    return GPUShare(card.uuid, wanted.memory_on(card.memory_mib), wanted.cores)


def _after(cards: Sequence[Card], chosen: Sequence[Card], wanted: ContainerRequest) -> list[Card]:
    uuids = {card.uuid for card in chosen}
    return [c.plus(memory_mib=wanted.memory_on(c.memory_mib), cores=wanted.cores) if c.uuid in uuids else c for c in cards]


def _reject(shape: Shape, wanted: ContainerRequest, cards: Sequence[Card], codes: Sequence[Code | None]) -> Rejection:
    counter = Counter(code for code in codes if code is not None)
    counts = tuple(sorted(counter.items(), key=lambda item: str(item[0])))
    if len(cards) < wanted.number:
        return Rejection(Code.INSUFFICIENT_DEVICE, counts, len(cards), permanent=True)
    possible = [card for card in cards if _ever(card, wanted, shape)]
    return Rejection(_spoken(counter), counts, len(cards), permanent=len(possible) < wanted.number)


def _ever(card: Card, wanted: ContainerRequest, shape: Shape) -> bool:
    """Whether the card could take the container if it were empty and healthy."""
    empty = Card(card.uuid, card.index, card.model, card.memory_mib)
    return check_card(empty, wanted=wanted, shape=shape, max_slices=1) is None


def _spoken(counter: Counter[Code]) -> Code:
    """The code for the user: a shortage before a card that is out of question anyway; of shortages the most frequent."""
    shortages = [code for code in _SHORTAGES if code in counter]
    if shortages:
        return max(shortages, key=lambda code: (counter[code], -_SHORTAGES.index(code)))
    return next(code for code in _SAID_FIRST if code in counter)
