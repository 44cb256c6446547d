"""Whether a pod fits on a node, and on which cards.

A container gets distinct cards; containers of one pod may share a card. One asking container is decided exactly by taking the
best cards; several are decided by a search that goes back when the best cards of one leave too little for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from mica_api.allocation import GPUShare
from mica_api.request import MAX_CORES, ContainerRequest
from mica_api.selection import Policy
from mica_extender.placement.model import Card, Code, NodeState, Placement, Rejection, Shape, Verdict

SEARCH_BUDGET: Final = 20_000
"""Card combinations tried for one pod on one node; a pod of many containers that exceeds it counts as not fitting."""

_SHORTAGES: Final = (
    Code.INSUFFICIENT_MEMORY,
    Code.INSUFFICIENT_CORE,
    Code.EXCLUSIVE_CONFLICT,
    Code.SLICES_EXHAUSTED,
)
_SAID_FIRST: Final = (*_SHORTAGES, Code.NOT_HEALTHY, Code.UUID_MISMATCH, Code.TYPE_MISMATCH, Code.INSUFFICIENT_DEVICE)


def fits(shape: Shape, node: NodeState) -> bool:
    """Whether ``choose`` finds cards."""
    return isinstance(choose(shape, node), Placement)


def choose(shape: Shape, node: NodeState) -> Verdict:
    """Cards for every container under the pod's card policy or else the node's, or why there are none."""
    if not node.ready:
        return Rejection(Code.UNREGISTERED)
    containers = shape.request.containers
    asking = sorted((i for i, c in enumerate(containers) if c.asks), key=lambda i: _hardness(containers[i]), reverse=True)
    search = _Search(shape, node, shape.selection.gpu_policy or node.gpu_policy)
    found = search.run([(i, containers[i]) for i in asking], node.cards)
    if found is None:
        return search.rejection or Rejection(Code.INSUFFICIENT_DEVICE, cards=len(node.cards))
    return Placement(tuple(found.get(i, ()) for i in range(len(containers))))


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
    """State of one ``choose``: the combinations left and the first dead end, which is the one that names the shortage."""

    shape: Shape
    node: NodeState
    policy: Policy
    left: int = SEARCH_BUDGET
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
        seen: set[tuple[tuple[int, int, int, int], ...]] = set()
        for chosen in combinations(ranked, request.number):
            self.left -= 1
            if self.left < 0:
                return
            look = tuple(sorted((c.memory_mib, c.used_mib, c.used_cores, c.slices) for c in chosen))
            if look not in seen:
                seen.add(look)
                yield chosen


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
