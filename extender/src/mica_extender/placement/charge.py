"""What a pod takes of a card over its life, with init containers and sidecars. Values only.

A pod lives in phases: each regular init container runs alone beside the sidecars that were started before it; then all app
containers run beside all sidecars. Per card and resource the pod is charged the most that any phase takes, which is
max(Σ apps + Σ sidecars, max over init i of (i + Σ sidecars started before i)).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mica_api.allocation import GPUShare
from mica_api.request import ContainerRequest, PodRequest
from mica_extender.placement.model import Card, Placement


class Amounts(NamedTuple):
    """Taken of one card: MiB, percent of cores, and slices."""

    memory_mib: int = 0
    cores: int = 0
    slices: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """One asking container and when it runs.

    ``position`` is its place among the init containers or, when ``app``, among the app containers. ``phases`` are numbered in
    order, the last is the app's; ``passing`` is a regular init container, which is over before the next phase.
    """

    position: int
    app: bool
    request: ContainerRequest
    phases: tuple[int, ...]
    passing: bool = False


def phases(request: PodRequest) -> int:
    """Number of phases of a pod: one for each asking regular init container, and the app's."""
    return 1 + sum(1 for one in request.init if one.container.asks and not one.restartable)


def members(request: PodRequest) -> list[Member]:
    """All asking containers of a pod with their phases: init containers in their order, then the app's."""
    last, now = phases(request) - 1, 0
    found: list[Member] = []
    for at, one in enumerate(request.init):
        if not one.container.asks:
            continue
        if one.restartable:
            found.append(Member(at, False, one.container, tuple(range(now, last + 1))))
        else:
            found.append(Member(at, False, one.container, (now,), passing=True))
            now += 1
    found += [Member(at, True, one, (last,)) for at, one in enumerate(request.containers) if one.asks]
    return found


def charges(request: PodRequest, placement: Placement, cards: Iterable[Card]) -> dict[str, Amounts]:
    """What a placed pod is charged, by the UUID of the card. Cards that the placement names but are not given count as usual."""
    known = {card.uuid: card for card in cards}
    by_phase: list[dict[str, Amounts]] = [{} for _ in range(phases(request))]
    for member in members(request):
        shares = (placement.shares if member.app else placement.init)[member.position]
        for phase in member.phases:
            add_shares(by_phase[phase], shares, known)
    return most(by_phase)


def add_shares(taken: dict[str, Amounts], shares: Sequence[GPUShare], cards: Mapping[str, Card]) -> None:
    """Add shares that are held together to what is taken. An exclusive share takes all cores that its card has to give."""
    for share in shares:
        before = taken.get(share.uuid, Amounts())
        card = cards.get(share.uuid)
        cores = share.cores if card is None else card.cores_of(share.cores)
        taken[share.uuid] = Amounts(before.memory_mib + share.memory_mib, before.cores + cores, before.slices + 1)


def most(phases_taken: Iterable[Mapping[str, Amounts]]) -> dict[str, Amounts]:
    """Card by card and resource by resource the most of several phases."""
    largest: dict[str, Amounts] = {}
    for taken in phases_taken:
        for uuid, amounts in taken.items():
            before = largest.get(uuid, Amounts())
            largest[uuid] = Amounts(*(max(pair) for pair in zip(before, amounts, strict=True)))
    return largest
