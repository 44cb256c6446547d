"""Policy ``topology``: the same set as trying all of them, and its ties."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Placement, Shape, choose
from mica_extender.placement.topology import best_set, link_rate, pair_rates

KINDS = ("NV18", "NV12", "NV4", "NV2", "NV1", "PIX", "PXB", "PHB", "NODE", "SYS", "unheard-of")


def linked(count: int, kinds: Sequence[str], *, seed: int = 0, numa: int = 2) -> list[Card]:
    """Cards whose links are drawn from ``kinds``, some reported by one end only, in an order that is not that of their UUIDs."""
    draw = random.Random(seed)
    links: dict[int, list[tuple[str, int]]] = {at: [] for at in range(count)}
    for a, b in combinations(range(count), 2):
        rate = link_rate(draw.choice(kinds))
        ends = draw.choice([(a, b), (b, a)])
        links[ends[0]].append((f"GPU-{ends[1]:02}", rate))
        if draw.random() < 0.5:
            links[ends[1]].append((f"GPU-{ends[0]:02}", rate))
    cards = [
        Card(f"GPU-{at:02}", count - at, "H100", 81920, numa=draw.choice([None, *range(numa)]), links=tuple(links[at]))
        for at in range(count)
    ]
    draw.shuffle(cards)
    return cards


def by_trying_all(cards: Sequence[Card], number: int) -> tuple[str, ...]:
    """The rule itself: every set, by rates, then NUMA nodes, then UUIDs."""
    ordered = sorted(cards, key=lambda card: card.uuid)
    rates = pair_rates(ordered).tolist()

    def rank(chosen: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        if number == 1:
            return (sum(rates[chosen[0]]), 1, chosen)
        inside = sum(rates[a][b] for a, b in combinations(chosen, 2))
        return (-inside, len({ordered[at].numa for at in chosen}), chosen)

    return tuple(ordered[at].uuid for at in min(combinations(range(len(ordered)), number), key=rank))


@pytest.mark.parametrize("block", range(10))
def test_of_eight_cards_the_set_is_the_one_that_trying_all_finds(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        draw = random.Random(seed)
        kinds = KINDS if seed % 2 else draw.sample(KINDS, 2)
        cards = linked(8, kinds, seed=seed)
        number = draw.randint(1, 8)
        assert tuple(card.uuid for card in best_set(cards, number)) == by_trying_all(cards, number)


@pytest.mark.parametrize("block", range(5))
def test_of_sixteen_cards_the_set_is_the_one_that_trying_all_finds(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        draw = random.Random(seed)
        kinds = KINDS if seed % 2 else draw.sample(KINDS, 2)
        cards = linked(16, kinds, seed=seed, numa=4)
        number = draw.randint(1, 16)
        assert tuple(card.uuid for card in best_set(cards, number)) == by_trying_all(cards, number)


def test_of_more_cards_the_set_cannot_be_bettered_by_an_exchange() -> None:
    for seed in range(20):
        cards = linked(24, KINDS, seed=seed)
        chosen = best_set(cards, 6)
        sums = int(pair_rates(chosen).sum())
        for out in chosen:
            for new in set(cards) - set(chosen):
                assert int(pair_rates([new, *(card for card in chosen if card != out)]).sum()) <= sums


def test_two_islands_are_not_mixed() -> None:
    island = {at: "ab"[at // 4] for at in range(8)}
    cards = [
        Card(
            f"GPU-{at}",
            at,
            "H100",
            81920,
            links=tuple((f"GPU-{to}", link_rate("NV18" if island[at] == island[to] else "SYS")) for to in range(8) if to != at),
        )
        for at in range(8)
    ]
    free = [card for card in cards if card.uuid not in ("GPU-1",)]
    assert [card.uuid for card in best_set(free, 4)] == ["GPU-4", "GPU-5", "GPU-6", "GPU-7"]
    assert [card.uuid for card in best_set(free, 1)] == ["GPU-0"], "a single card is taken where it breaks the least"


def test_equal_rates_are_decided_by_numa_nodes_and_then_by_uuid() -> None:
    cards = [Card(f"GPU-{at}", 0, "H100", 81920, numa=numa) for at, numa in enumerate([0, 1, 1, 0])]
    assert [card.uuid for card in best_set(cards, 2)] == ["GPU-0", "GPU-3"]
    assert [card.uuid for card in best_set(cards, 1)] == ["GPU-0"]


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("NV1", 60),
        ("NV18", 230),
        ("nv4", 90),
        ("PIX", 50),
        ("PXB", 40),
        ("PHB", 30),
        ("NODE", 20),
        ("SYS", 10),
        ("X", 0),
        ("", 0),
        ("NV", 0),
        ("NVLINK", 0),
    ],
)
def test_links_have_the_rates_that_users_of_flexai_know(kind: str, rate: int) -> None:
    assert link_rate(kind) == rate


def test_a_link_counts_when_one_end_reports_it_and_a_link_to_itself_never() -> None:
    cards = [Card("a", 0, "H100", 1, links=(("b", 50), ("a", 70), ("gone", 90))), Card("b", 1, "H100", 1)]
    assert np.array_equal(pair_rates(cards), [[0, 50], [50, 0]])


def test_a_pod_gets_the_best_connected_of_the_cards_it_may_use() -> None:
    cards = linked(8, ("NV18", "PIX", "SYS"), seed=7)
    busy = {cards[0].uuid, cards[3].uuid}
    state = NodeState("n", 10, tuple(c.plus(memory_mib=81000, cores=0) if c.uuid in busy else c for c in cards))
    wanted = Shape(PodRequest((ContainerRequest("main", number=3, memory_mib=8192),)), Selection(gpu_policy=("topology",)))
    verdict = choose(wanted, state)
    assert isinstance(verdict, Placement)
    assert tuple(sorted(share.uuid for share in verdict.shares[0])) == by_trying_all(
        [card for card in cards if card.uuid not in busy], 3
    )
