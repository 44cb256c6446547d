"""The best connected set of cards: rates of links, and the set whose pairs have the greatest sum.

Up to EXACT_CARDS cards the answer is exact: the cards are halved, every subset of each half is scored, and all pairs of subsets
are combined in one matrix ("meet in the middle", Horowitz and Sahni, 1974). More cards are first thinned out to EXACT_CARDS, and
the set found there is improved by exchanging one card at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mica_extender.placement.model import Card

EXACT_CARDS: Final = 16
_NVLINK: Final = re.compile(r"NV(\d{1,3})", re.ASCII)
_RATES: Final = {"PIX": 50, "PXB": 40, "PHB": 30, "NODE": 20, "SYS": 10}
_Ints = npt.NDArray[np.int64]


def link_rate(kind: str) -> int:
    """Rate of a link in the vendor's notation, as Flex:ai's users know it: NVn 50+10n, PIX 50 … SYS 10; 0 when not known."""
    name = kind.strip().upper()
    bonded = _NVLINK.fullmatch(name)
    return 50 + 10 * int(bonded[1]) if bonded else _RATES.get(name, 0)


def pair_rates(cards: Sequence[Card]) -> _Ints:
    """Symmetric matrix of the rates between the cards, in their order; what either end reports counts, 0 when none does."""
    position = {card.uuid: at for at, card in enumerate(cards)}
    rates = np.zeros((len(cards), len(cards)), np.int64)
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
    return np.array([1 << min(known[card.numa], 62) for card in cards], np.int64)


def _exact(rates: _Ints, numa: _Ints, number: int) -> list[int]:
    count = len(rates)
    half = count // 2
    left, right = _subsets(half), _subsets(count - half)
    score = _inner(left, rates[:half, :half])[:, None] + _inner(right, rates[half:, half:])[None, :]
    score += left @ rates[:half, half:] @ right.T
    score[left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] != number] = -1
    rows, columns = np.nonzero(score == score.max())
    nodes = np.bitwise_count(_joined(left, numa[:half])[rows] | _joined(right, numa[half:])[columns])
    # The first card is the highest bit of a subset's number: the greatest number is the first set in the cards' order.
    value = rows * len(right) + columns
    best = int(value[nodes == nodes.min()].max())
    return [at for at in range(count) if best >> (count - 1 - at) & 1]


@lru_cache(maxsize=EXACT_CARDS)
def _subsets(size: int) -> _Ints:
    """Row ``s``: which of ``size`` cards are in subset ``s``, the first card being its highest bit."""
    numbers = np.arange(1 << size, dtype=np.int64)[:, None]
    bits: _Ints = numbers >> np.arange(size - 1, -1, -1, dtype=np.int64)[None, :] & 1
    return bits


def _inner(subsets: _Ints, rates: _Ints) -> _Ints:
    """Sum of the pair rates within each subset."""
    sums: _Ints = ((subsets @ rates) * subsets).sum(axis=1) // 2
    return sums


def _joined(subsets: _Ints, numa: _Ints) -> _Ints:
    """NUMA bits of each subset."""
    bits: Any = np.bitwise_or.reduce(subsets * numa[None, :], axis=1, initial=0)
    return np.asarray(bits, np.int64)


def _thinned(rates: _Ints, numa: _Ints, number: int) -> list[int]:
    """A good set of more than EXACT_CARDS cards: start from the best pair of neighbourhoods, then exchange while it helps."""
    keep = max(EXACT_CARDS, number)
    strongest = np.sort(rates, axis=1)[:, ::-1][:, : number - 1].sum(axis=1)
    seed = int(np.argmax(strongest))
    near = np.lexsort((np.arange(len(rates)), -rates[seed] - (np.arange(len(rates)) == seed) * 10**9))
    pool = np.sort(near[:keep])
    chosen = {int(pool[at]) for at in _exact(rates[np.ix_(pool, pool)], numa[pool], number)}
    while (better := _exchange(rates, chosen)) is not None:
        chosen = better
    return sorted(chosen)


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
