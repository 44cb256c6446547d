"""What must hold for several containers to fit on a node together. Necessary, never sufficient, and cheap."""

from __future__ import annotations

from collections.abc import Sequence

from mica_api.request import ContainerRequest
from mica_extender.placement.charge import Member
from mica_extender.placement.check import check_card
from mica_extender.placement.model import Card, NodeState, Shape


def sums_allow(shape: Shape, node: NodeState, wanted: Sequence[Member]) -> bool:
    """Whether the containers of each phase together want no more than the cards that any of them can use still have."""
    numbers = {phase for member in wanted for phase in member.phases}
    return all(_phase_allows(shape, node, [m.request for m in wanted if phase in m.phases]) for phase in numbers)


def _phase_allows(shape: Shape, node: NodeState, wanted: Sequence[ContainerRequest]) -> bool:
    """Looked at are the memory, the cores, the number of shares (each at least as large as the smallest) and the empty cards."""
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
        sum(one.number * one.memory_on(smallest) for one in wanted) <= sum(card.total_mib - card.used_mib for card in usable)
        and sum(one.number * one.cores for one in wanted) <= sum(card.core_capacity - card.used_cores for card in usable)
        and sum(one.number for one in wanted) <= room
        and sum(one.number for one in wanted if one.exclusive) <= sum(card.empty for card in usable)
    )


def _most_shares(card: Card, wanted: Sequence[ContainerRequest], max_slices: int) -> int:
    """How many shares of the containers the card could take if all were as small as the smallest, each container one."""
    memory = max(1, min(one.memory_on(card.memory_mib) for one in wanted))
    cores = min(one.cores for one in wanted)
    counts = [len(wanted), card.slots(max_slices) - card.slices, (card.total_mib - card.used_mib) // memory]
    if cores:
        counts.append((card.core_capacity - card.used_cores) // cores)
    return min(counts)
