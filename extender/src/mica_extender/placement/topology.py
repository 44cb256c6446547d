"""The best connected set of cards: rates of links, and the set whose pairs have the greatest sum.

Up to EXACT_CARDS cards the answer is exact: the sums of all subsets are built by doubling, one card at a time, as arrays. More
cards are first thinned out to EXACT_CARDS, and the set found there is improved by exchanging one card at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from mica_extender.placement.model import Card

EXACT_CARDS: Final = 16
_ANSWERS_KEPT: Final = 1024
"""Of 1 KiB each."""
_NVLINK: Final = re.compile(r"NV(\d{1,3})", re.ASCII)
_RATES: Final = {"PIX": 50, "PXB": 40, "PHB": 30, "NODE": 20, "SYS": 10}
_Ints = npt.NDArray[np.int32]


def link_rate(kind: str) -> int:
    """Rate of a link in the vendor's notation, as Flex:ai's users know it: NVn 50+10n, PIX 50 … SYS 10; 0 when not known."""
    name = kind.strip().upper()
    bonded = _NVLINK.fullmatch(name)
    return 50 + 10 * int(bonded[1]) if bonded else _RATES.get(name, 0)


def pair_rates(cards: Sequence[Card]) -> _Ints:
    """Symmetric matrix of the rates between the cards, in their order; what either end reports counts, 0 when none does."""
    position = {card.uuid: at for at, card in enumerate(cards)}
    rates = np.zeros((len(cards), len(cards)), np.int32)
    for row, card in enumerate(cards):
        for uuid, rate in card.links:
            column = position.get(uuid, row)
            if column != row and rate > rates[row, column]:
                rates[row, column] = rates[column, row] = rate
    return rates


def best_set(cards: Sequence[Card], number: int) -> tuple[Card, ...]:
    """``number`` of the cards, at least that many being given.

    Several: the greatest sum of pair rates. One: the least sum of rates to the others, so that well connected ones stay together.
    Ties: fewer NUMA nodes, then UUIDs.
    """
    ordered = sorted(cards, key=lambda card: card.uuid)
    rates = pair_rates(ordered)
    if number == 1:
        return (ordered[int(np.argmin(rates.sum(axis=1)))],)
    if number >= len(ordered):
        return tuple(ordered)
    numa = _numa_bits(ordered)
    choose = _exact if len(ordered) <= EXACT_CARDS else _thinned
    chosen = choose(rates, numa, number)
    return tuple(ordered[at] for at in sorted(chosen))


def _numa_bits(cards: Sequence[Card]) -> _Ints:
    """One bit per NUMA node for each card; the NUMA node that is not known counts as one."""
    known = {numa: at for at, numa in enumerate(dict.fromkeys(card.numa for card in cards))}
    return np.array([1 << min(known[card.numa], 30) for card in cards], np.int32)


def _exact(rates: _Ints, numa: _Ints, number: int) -> tuple[int, ...]:
    """Machines of one model have the same matrix, so that most answers are known."""
    return _exact_of(rates.tobytes(), numa.tobytes(), number)


@lru_cache(maxsize=_ANSWERS_KEPT)
def _exact_of(raw_rates: bytes, raw_numa: bytes, number: int) -> tuple[int, ...]:
    numa = np.frombuffer(raw_numa, np.int32)
    count = len(numa)
    rates = np.frombuffer(raw_rates, np.int32).reshape(count, count)
    score = np.where(_sizes(count) == number, _pair_sums(rates), -1)
    tied = np.flatnonzero(score == score.max())
    nodes = np.bitwise_count(_unions(numa)[tied])
    # The first card is the highest bit of a subset's number: the greatest number is the first set in the cards' order.
    best = int(tied[nodes == nodes.min()].max())
    return tuple(card for card in range(count) if best >> (count - 1 - card) & 1)


@lru_cache(maxsize=EXACT_CARDS)
def _sizes(count: int) -> npt.NDArray[np.uint8]:
    """Number of cards in each subset."""
    return np.bitwise_count(np.arange(1 << count, dtype=np.int32))


def _pair_sums(rates: _Ints) -> _Ints:
    """By subset, the sum of the pair rates within it: a card joins every subset of the cards after it."""
    sums = np.zeros(1, np.int32)
    for card in reversed(range(len(rates))):
        sums = np.concatenate([sums, sums + _subset_sums(rates[card, card + 1 :])])
    return sums


def _subset_sums(values: _Ints) -> _Ints:
    """By subset, the sum of its members' values; the first member is the highest bit."""
    sums = np.zeros(1, np.int32)
    for value in values[::-1]:
        sums = np.concatenate([sums, sums + value])
    return sums


def _unions(bits: _Ints) -> _Ints:
    """By subset, all bits of its members."""
    joined = np.zeros(1, np.int32)
    for own in bits[::-1]:
        joined = np.concatenate([joined, joined | own])
    return joined


def _thinned(rates: _Ints, numa: _Ints, number: int) -> tuple[int, ...]:
    """A good set of more than EXACT_CARDS cards: start from the best pair of neighbourhoods, then exchange while it helps."""
    keep = max(EXACT_CARDS, number)
    strongest = np.sort(rates, axis=1)[:, ::-1][:, : number - 1].sum(axis=1)
    seed = int(np.argmax(strongest))
    near = np.lexsort((np.arange(len(rates)), -rates[seed] - (np.arange(len(rates)) == seed) * 10**8))
    pool = np.sort(near[:keep])
    chosen = {int(pool[at]) for at in _exact(rates[np.ix_(pool, pool)], numa[pool], number)}
    while (better := _exchange(rates, chosen)) is not None:
        chosen = better
    return tuple(sorted(chosen))


def _exchange(rates: _Ints, chosen: set[int]) -> set[int] | None:
    """The set after the exchange of one card that gains most, or None when none gains."""
    inside = sorted(chosen)
    outside = [at for at in range(len(rates)) if at not in chosen]
    tied = rates[:, inside].sum(axis=1)
    gain = tied[outside][None, :] - tied[inside][:, None] - rates[np.ix_(inside, outside)]
    out, new = np.unravel_index(int(np.argmax(gain)), gain.shape)
    if gain[out, new] <= 0:
        return None
    return chosen - {inside[int(out)]} | {outside[int(new)]}
