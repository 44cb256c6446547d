"""The faults, how often they strike, and the table of what struck where."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from .awaits import AWAITS, suspended_at
from .loop import Process

KILL: Final = "SIGKILL"
REQUEST_FAULTS: Final = ("lost before", "lost after", "lands later", "409", "429", "500")
WATCH_FAULTS: Final = ("informer lag", "duplicate", "reorder", "stale list")
FAULTS: Final = (KILL, *REQUEST_FAULTS, *WATCH_FAULTS)

_NO_REQUEST = "no request is awaited there"
_CHANGES_NOTHING = "a read changes nothing, so that it cannot land late"
_NO_CONFLICT = "the API server answers no read with a conflict"
_BEFORE = "nothing has been asked of the API server before the arguments are read"


def _cannot_be() -> dict[tuple[str, str], str]:
    """Cells that cannot be hit, and why."""
    cells: dict[tuple[str, str], str] = {}
    for point in AWAITS:
        if point.waits_for == "asyncio.sleep":
            cells |= {(point.label, fault): _NO_REQUEST for fault in REQUEST_FAULTS}
        elif point.waits_for == "read_body":
            cells |= {(point.label, fault): _BEFORE for fault in REQUEST_FAULTS}
        elif point.waits_for in ("self._api.read", "self._refresh"):
            cells |= {(point.label, "lands later"): _CHANGES_NOTHING, (point.label, "409"): _NO_CONFLICT}
    return cells


CANNOT_BE: Final[Mapping[tuple[str, str], str]] = _cannot_be()

Hits = Counter[tuple[str, str]]


class Strikes:
    """Draws faults until peace is declared, and counts every one where it struck."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.peace = False
        self.hits: Hits = Counter()

    def drawn(self, chance: float) -> bool:
        """Whether a fault of this probability strikes now."""
        return not self.peace and self.random.random() < chance

    def for_request(self, kind: str) -> str:
        """What happens to a request: one of REQUEST_FAULTS, or nothing."""
        if not self.drawn(0.7 if kind == "evict" else 0.35):
            return ""
        if kind in ("read", "list"):
            return self.random.choice(("lost before", "lost after", "429", "500"))
        return self.random.choice(REQUEST_FAULTS)

    def struck_request(self, fault: str, process: Process, task: object) -> None:
        """A fault reached the task that waits for a request, and whoever waits for that task."""
        for one in process.tasks:
            label, frame = suspended_at(one)
            if label is not None and (one is task or frame.f_locals.get("task") is task):
                self.hits[label, fault] += 1

    def struck_process(self, fault: str, process: Process) -> None:
        """A fault reached a process, whatever it is doing."""
        for task in process.tasks:
            label, _ = suspended_at(task)
            if label is not None:
                self.hits[label, fault] += 1


def empty_cells(hits: Mapping[tuple[str, str], int]) -> list[str]:
    """Cells that should have been hit and were not, and cells with a reason that were hit nevertheless."""
    labels = [point.label for point in AWAITS]
    missing = [f"{a} × {f}: no hit" for a in labels for f in FAULTS if not hits.get((a, f)) and (a, f) not in CANNOT_BE]
    wrong = [f"{a} × {f}: hit, but said to be impossible" for (a, f), n in hits.items() if n and (a, f) in CANNOT_BE]
    return missing + wrong


def table(hits: Mapping[tuple[str, str], int]) -> str:
    """await × fault × hits, with the reasons for the cells that cannot be."""
    labels = [point.label for point in AWAITS]
    width = max(map(len, labels))
    reasons = list(dict.fromkeys(CANNOT_BE.values()))
    marks = {reason: f"({number})" for number, reason in enumerate(reasons, start=1)}
    lines = [" " * width + "".join(f"{fault:>13}" for fault in FAULTS)]
    for label in labels:
        cells = [hits.get((label, fault)) or marks.get(CANNOT_BE.get((label, fault), ""), "EMPTY") for fault in FAULTS]
        lines.append(f"{label:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join([*lines, *(f"{mark} {reason}" for reason, mark in marks.items())])


def merged(parts: Iterable[Mapping[tuple[str, str], int]]) -> Hits:
    """Sum of several tables."""
    total: Hits = Counter()
    for part in parts:
        total.update(part)
    return total
