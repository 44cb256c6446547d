"""Whether a pod fits on a node, and on which cards.

A container gets distinct cards; containers of one pod may share a card. One asking container is decided exactly by taking the
best cards; several are decided by a search that goes back when the best cards of one leave too little for another. What cannot
fit by its sums is not searched for; after SEARCH_BUDGET combinations ``complete`` decides, exactly.

Init containers are placed last and take the pod's own cards first; what may run at the same time is ``charge``'s rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mica_api.allocation import GPUShare
from mica_api.request import ContainerRequest
from mica_extender.placement.bounds import sums_allow
from mica_extender.placement.charge import Member, members, phases
from mica_extender.placement.check import check_card, most_usable, reject
from mica_extender.placement.complete import Stack, complete
from mica_extender.placement.model import Card, Code, NodeState, Placement, Rejection, Shape, Verdict
from mica_extender.placement.numa import by_node
from mica_extender.placement.policy import CardCost, Chooser, Plan, Ranked, effective_weights, plan

SEARCH_BUDGET: Final = 30
"""Card combinations tried in the order of the policies for one pod on one node. After that any way in will do."""

_Look = tuple[object, ...]
_Cards = tuple[Sequence[Card], ...]
"""The node's cards with what the pod's containers so far take of them, phase by phase."""
_Found = dict[tuple[bool, int], tuple[GPUShare, ...]]


class Found(NamedTuple):
    """A verdict, the card combinations tried for it, and whether it was given up before all were excluded.

    ``tried`` counts what ``complete`` has cost in combinations, too.
    """

    verdict: Verdict
    tried: int = 0
    given_up: bool = False


def choose(shape: Shape, node: NodeState, *, cost: CardCost | None = None) -> Verdict:
    """Cards for every container under the pod's card policy or else the node's, or why there are none."""
    return search(shape, node, cost=cost).verdict


def search(shape: Shape, node: NodeState, *, budget: int = SEARCH_BUDGET, cost: CardCost | None = None) -> Found:
    """``choose``, and what it cost. At least one combination per container is tried, which is all that one container needs.

    With a ``budget`` below SEARCH_BUDGET what it does not find is given up and not decided exactly.

    ``cost`` ranks cards under the card policy ``fragmentation``; without it that policy is ``binpack``.
    """
    if not node.ready:
        return Found(Rejection(Code.UNREGISTERED))
    if node.compute.excess(shape.selection.compute) is not None:
        return Found(Rejection(Code.COMPUTE_NOT_ALLOWED, permanent=True))
    wanted = _order(shape)
    # What cannot fit is tried once all the same: the first dead end is what names the shortage.
    possible = len(wanted) < 2 or sums_allow(shape, node, wanted)
    left = max(budget, len(wanted)) if possible else len(wanted)
    work = _Search(shape, node, plan(shape.selection.gpu_policy or node.gpu_policy), cost, left)
    found = work.run(wanted, (node.cards,) * phases(shape.request))
    tried, given_up = left - work.left, possible and work.exhausted
    if found is None and given_up and budget >= SEARCH_BUDGET:
        found, cost_of_all, given_up = work.complete(wanted)
        tried += cost_of_all
    if found is None:
        verdict = work.rejection or Rejection(Code.INSUFFICIENT_DEVICE, cards=len(node.cards))
        return Found(verdict, tried, given_up)
    shares = tuple(found.get((True, at), ()) for at in range(len(shape.request.containers)))
    init = tuple(found.get((False, at), ()) for at in range(len(shape.request.init)))
    return Found(Placement(shares, init), tried)


def asking_order(shape: Shape) -> tuple[ContainerRequest, ...]:
    """The containers that ask for slices in the order in which they are placed: the hardest first."""
    return tuple(member.request for member in _order(shape))


@dataclass(slots=True)
class _Search:
    """State of one search: the combinations left and the first dead end, which is the one that names the shortage."""

    shape: Shape
    node: NodeState
    plan: Plan
    cost: CardCost | None
    left: int
    exhausted: bool = False
    rejection: Rejection | None = field(default=None)

    def run(self, wanted: Sequence[Member], cards: _Cards) -> _Found | None:
        """Shares by container, or None."""
        if not wanted:
            return {}
        member, request = wanted[0], wanted[0].request
        codes = [self._check(at, member, cards) for at in range(len(self.node.cards))]
        now = cards[member.phases[-1]]
        feasible = [card for card, code in zip(now, codes, strict=True) if code is None]
        if most_usable(feasible, self.shape) < request.number:
            self.rejection = self.rejection or reject(self.shape, request, self.node.cards, codes)
            return None
        if len(wanted) == 1:
            return self._last(member, feasible, cards)
        for chosen in self._combinations(member, feasible, cards):
            rest = self.run(wanted[1:], _after(cards, chosen, member))
            if rest is not None:
                return {(member.app, member.position): tuple(_share(card, request) for card in chosen), **rest}
        return None

    def complete(self, wanted: Sequence[Member]) -> tuple[_Found | None, int, bool]:
        """Shares by container in whatever way there is, or None; the cost, and whether even this was given up."""
        looks = self._looks((self.node.cards,))
        stacks = [(card,) * phases(self.shape.request) for card in self.node.cards]
        numa = self.shape.selection.numa_bind
        done = complete(wanted, stacks, self, one_numa=numa, looks=lambda card: looks[card.uuid])
        if done.cards is None:
            return None, done.cost, done.given_up
        shares: _Found = {(member.app, member.position): () for member in wanted}
        for card, on_it in zip(self.node.cards, done.cards, strict=True):
            for at in on_it:
                key = (wanted[at].app, wanted[at].position)
                shares[key] = (*shares[key], _share(card, wanted[at].request))
        return shares, done.cost, False

    def admits(self, at: int, member: Member, stack: Stack) -> bool:
        """See ``complete.CardRules``."""
        return self._code(at, member, stack) is None

    def _last(self, member: Member, feasible: list[Card], cards: _Cards) -> _Found | None:
        """For the last container the best set will do."""
        if self.left == 0:
            self.exhausted = True
            return None
        self.left -= 1
        chooser = self._chooser(member, cards)
        chosen, _ = self._best(chooser, feasible)[0]
        return {(member.app, member.position): tuple(_share(card, member.request) for card in chosen)}

    def _chooser(self, member: Member, cards: _Cards) -> Chooser:
        own = _own(self.node, cards) if member.passing else frozenset()
        return Chooser(member.request, self.plan, self.node, effective_weights(self.shape, self.node), self.cost, own)

    def _check(self, at: int, member: Member, cards: _Cards) -> Code | None:
        return self._code(at, member, [state[at] for state in cards])

    def _code(self, at: int, member: Member, stack: Sequence[Card]) -> Code | None:
        """The first check that the card fails in any phase in which the container runs."""
        for phase in member.phases:
            code = check_card(
                stack[phase],
                wanted=member.request,
                shape=self.shape,
                max_slices=self.node.max_slices,
                mutex=self.plan.mutex,
                before=self.node.cards[at],
            )
            if code is not None:
                return code
        return None

    def _combinations(self, member: Member, feasible: list[Card], cards: _Cards) -> Iterator[tuple[Card, ...]]:
        """Best first; of combinations that look alike to the containers still to come, only the first."""
        chooser, looks = self._chooser(member, cards), self._looks(cards)
        seen: set[tuple[_Look, ...]] = set()
        for chosen in self._sets(chooser, feasible, looks):
            if self.left == 0:
                self.exhausted = True
                return
            self.left -= 1
            look = tuple(sorted((looks[card.uuid] for card in chosen), key=repr))
            if look not in seen:
                seen.add(look)
                yield chosen

    def _sets(self, chooser: Chooser, feasible: list[Card], looks: dict[str, _Look]) -> Iterator[tuple[Card, ...]]:
        """What the policies choose, of each NUMA node where one is demanded; then every other set by the ranks of its cards."""
        best = self._best(chooser, feasible)
        for chosen, _ in best:
            yield chosen
        for chosen, group in best:
            for other in _distinct(group, chooser.wanted.number, looks):
                if other != chosen:
                    yield other

    def _best(self, chooser: Chooser, feasible: list[Card]) -> list[tuple[tuple[Card, ...], list[Ranked]]]:
        """What the policies choose, best first, with the cards it was chosen from: all, or those of one NUMA node."""
        number = chooser.wanted.number
        if not self.shape.selection.numa_bind:
            ranked = chooser.ranked(feasible)
            return [(chooser.best(ranked, number), ranked)]
        groups = [chooser.ranked(group) for group in by_node(feasible).values() if len(group) >= number]
        best = [(chooser.best(group, number), group) for group in groups]
        return sorted(best, key=lambda pair: chooser.quality(*pair))

    def _looks(self, cards: _Cards) -> dict[str, _Look]:
        """What of each card matters to the containers still to come: cards that look alike can stand for each other."""
        bound = self.shape.selection.numa_bind
        return {
            card.uuid: (
                *(card.memory_mib, card.total_mib, card.core_capacity, card.max_slices, card.used_cores),
                card.numa if bound else None,
                *((phase[at].used_mib, phase[at].used_cores, phase[at].slices) for phase in cards),
            )
            for at, card in enumerate(self.node.cards)
        }


def _distinct(ranked: Sequence[Ranked], number: int, looks: dict[str, _Look]) -> Iterator[tuple[Card, ...]]:
    """Combinations in the order of ``itertools``, without those that only swap a card for its look-alike beside it."""
    if number == 0:
        yield ()
        return
    passed: set[_Look] = set()
    for index, one in enumerate(ranked[: len(ranked) - number + 1]):
        if (look := looks[one.card.uuid]) not in passed:
            passed.add(look)
            for rest in _distinct(ranked[index + 1 :], number - 1, looks):
                yield (one.card, *rest)


def _order(shape: Shape) -> list[Member]:
    """The hardest first; what is over before the app starts last, when the pod's own cards are known."""
    return sorted(members(shape.request), key=lambda member: (not member.passing, *_hardness(member.request)), reverse=True)


def _hardness(wanted: ContainerRequest) -> tuple[bool, bool, int, int, int]:
    whole_memory = not wanted.memory_mib and wanted.memory_percent in (0, 100)
    return (wanted.exclusive, whole_memory, wanted.number, max(wanted.memory_mib, wanted.memory_percent), wanted.cores)


def _share(card: Card, wanted: ContainerRequest) -> GPUShare:
    return GPUShare(card.uuid, wanted.memory_on(card.memory_mib), wanted.cores)


def _own(node: NodeState, cards: _Cards) -> frozenset[str]:
    """The cards on which the pod has a slice in any phase."""
    return frozenset(card.uuid for at, card in enumerate(node.cards) if any(phase[at].slices != card.slices for phase in cards))


def _after(cards: _Cards, chosen: Sequence[Card], member: Member) -> _Cards:
    uuids, wanted = {card.uuid for card in chosen}, member.request
    return tuple(
        [
            card.with_slice(memory_mib=wanted.memory_on(card.memory_mib), cores=wanted.cores) if card.uuid in uuids else card
            for card in state
        ]
        if phase in member.phases
        else state
        for phase, state in enumerate(cards)
    )
