"""Bytes that are almost what they were: the one mutator of the router's fuzz tests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def spoilt(data: bytes, random: Random, *, inserts: Sequence[bytes], longest_cut: int, copied: Sequence[bytes]) -> bytes:
    """One to seven changes: one of ``inserts`` put in, up to ``longest_cut`` bytes taken out, a byte replaced, or a stretch of up
    to 80 bytes of one of ``copied`` put in.
    """
    changed = bytearray(data)
    for _ in range(random.randrange(1, 8)):
        at = random.randrange(len(changed) + 1)
        what = random.randrange(4)
        if what == 0:
            changed[at:at] = random.choice(inserts)
        elif what == 1:
            del changed[at : at + random.randrange(1, longest_cut + 1)]
        elif what == 2 and at < len(changed):
            changed[at] = random.randrange(256)
        else:
            source = random.choice(copied)
            start = random.randrange(len(source) + 1)
            changed[at:at] = source[start : start + random.randrange(80)]
    return bytes(changed)
