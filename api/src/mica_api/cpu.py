"""CPU amounts in thousandths of a core, and what the CPU requests of a whole pod add up to. Not for GPUs and not for memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil
from typing import Final, NamedTuple

_QUANTITY: Final = re.compile(r"(\d{1,12}(?:\.\d{0,9})?|\.\d{1,9})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?", re.ASCII)
_SUFFIXES: Final = {
    **{letter: Fraction(1000) ** power for power, letter in enumerate("num", start=-3)},
    **{letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}


MAX_MILLI: Final = 10**15
"""More than any cluster has, and little enough for sums in 64 bits."""


class ContainerCPU(NamedTuple):
    """CPU request of one init container in thousandths of a core; a sidecar is one that is restarted always."""

    milli: int
    sidecar: bool


def parse_milli(text: str) -> int:
    """Thousandths of a core that a Kubernetes quantity means, rounded up as Kubernetes does, at most MAX_MILLI.

    Raises ValueError.
    """
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text) * 1000
    matched = _QUANTITY.fullmatch(text)
    if matched is None:
        raise ValueError(f"{text!r} is not an amount of CPU; write for example 500m or 2")
    number, suffix, exponent = matched.groups()
    scale = _SUFFIXES[suffix] if suffix else Fraction(10) ** int(exponent or 0)
    return min(ceil(Fraction(number) * scale * 1000), MAX_MILLI)


def pod_milli(*, apps: Iterable[int], inits: Sequence[ContainerCPU] = (), overhead: int = 0, whole: int | None = None) -> int:
    """Request of a pod: what it needs while it runs, or while its hungriest init container does, and its overhead.

    Sidecars run from their start to the end, so an init container runs beside those before it (KEP-753). ``whole`` is what is
    written for the pod itself, which then holds for all its containers (KEP-2837).
    """
    if whole is not None:
        return whole + overhead
    beside, peak = 0, 0
    for init in inits:
        if init.sidecar:
            beside += init.milli
        else:
            peak = max(peak, beside + init.milli)
    return max(sum(apps) + beside, peak) + overhead
