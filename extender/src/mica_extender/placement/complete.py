"""Several containers on one node, decided exactly where the search by policies has tried enough.

Puts the question to ``assign``: which sets of containers each card can take together, by the same check as the search. The first
way found is taken, whatever the policies would prefer. One NUMA node for each container is kept to where the pod demands it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mica_extender.placement.assign import Assigned, Load, Task, assign
from mica_extender.placement.charge import Member
from mica_extender.placement.model import Card

Stack = tuple[Card, ...]
"""One card with what the pod's containers so far take of it, phase by phase."""


class CardRules(Protocol):
    """What a card can take and what becomes of it."""

    def admits(self, at: int, member: Member, stack: Stack) -> bool:
        """Whether the card at this place can take the container's slice beside what is in the stack."""
        ...


def complete(
    wanted: Sequence[Member], cards: Sequence[Stack], rules: CardRules, *, one_numa: bool, looks: Callable[[Card], object]
) -> Assigned:
    """For every card the positions in ``wanted`` of the containers on it.

    ``looks``: equal for cards that can stand for each other.
    """
    order = sorted(range(len(cards)), key=lambda at: (_numa_key(cards[at][-1]) if one_numa else 0, at))
    sizes = _sizes(wanted, apart=one_numa)
    known: dict[object, list[Load]] = {}
    loads: list[list[Load]] = []
    for at in order:
        alone = tuple(rules.admits(at, wanted[size[0]], cards[at]) for size in sizes)
        key = (looks(cards[at][-1]), alone)
        if key not in known:
            feasible = set(_loads(wanted, sizes, cards[at], _Rules(rules, at)))
            known[key] = sorted((load for load in feasible if _greatest(load, feasible)), reverse=True)
        loads.append(known[key])
    numas = [_numa_key(cards[at][-1]) for at in order]
    ends = [after != before for before, after in zip(numas, [*numas[1:], None], strict=True)] if one_numa else None
    found = assign(Task([one.request.number for one in wanted], sizes, loads, ends))
    if found.cards is None:
        return found
    back = dict(zip(order, found.cards, strict=True))
    return found._replace(cards=tuple(back[at] for at in range(len(cards))))


class _Rules:
    """The rules of one card."""

    def __init__(self, rules: CardRules, at: int) -> None:
        self._rules = rules
        self._at = at

    def plus(self, member: Member, stack: Stack) -> Stack | None:
        """The card with one slice more; None when it cannot take it."""
        if not self._rules.admits(self._at, member, stack):
            return None
        wanted = member.request
        return tuple(
            card.with_slice(memory_mib=wanted.memory_on(card.memory_mib), cores=wanted.cores) if phase in member.phases else card
            for phase, card in enumerate(stack)
        )


def _numa_key(card: Card) -> tuple[bool, int]:
    return (card.numa is None, card.numa or 0)


def _sizes(wanted: Sequence[Member], *, apart: bool) -> list[list[int]]:
    """Containers whose slices are alike, in the order of ``wanted``; each by itself when they must stay apart."""
    sizes: dict[object, list[int]] = {}
    for at, member in enumerate(wanted):
        one = member.request
        key: object = at if apart else (one.cores, one.memory_mib, one.memory_percent, member.phases)
        sizes.setdefault(key, []).append(at)
    return list(sizes.values())


def _loads(
    wanted: Sequence[Member], sizes: Sequence[Sequence[int]], stack: Stack, rules: _Rules, size: int = 0
) -> Iterator[Load]:
    """All that the card can take together, in the order of sizes."""
    if size == len(sizes):
        yield ()
        return
    now: Stack | None = stack
    for count in range(len(sizes[size]) + 1):
        if now is None:
            return
        for rest in _loads(wanted, sizes, now, rules, size + 1):
            yield (count, *rest)
        now = rules.plus(wanted[sizes[size][0]], now)


def _greatest(load: Load, feasible: set[Load]) -> bool:
    return not any((*load[:at], load[at] + 1, *load[at + 1 :]) in feasible for at in range(len(load)))
