"""How a benchmark tells what it found: figures beside their anchors and goals, as a table for people and as JSON for programs.

Every benchmark returns figures and measures nothing in here. A figure knows whether its goal is met;
nobody writes that down by hand.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

FOLDER: Final = Path("build/bench")


class Direction(Enum):
    """Which side of the goal is the good one. A value that equals the goal meets it."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach, in the figure's unit."""

    direction: Direction
    value: float

    def met_by(self, value: float) -> bool:
        """Whether the value is on the good side."""
        return value <= self.value if self.direction is Direction.AT_MOST else value >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.direction is Direction.AT_MOST else '≥'} {number(self.value)}"


def at_most(value: float) -> Goal:
    """Goal of a figure that should be small."""
    return Goal(Direction.AT_MOST, value)


def at_least(value: float) -> Goal:
    """Goal of a figure that should be large."""
    return Goal(Direction.AT_LEAST, value)


@dataclass(frozen=True, slots=True)
class Anchor:
    """The figure of somebody else, in the same unit. ``of`` says whose, and ``measured here`` or where it was published."""

    value: float
    of: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. ``figure`` names it uniquely within its part; ``how`` says in one line how it was measured.

    Raises ValueError for a value, anchor or goal that is not finite: a figure that could not be measured is an error of the
    benchmark, never a row of its table.
    """

    figure: str
    value: float
    unit: str
    how: str
    anchor: Anchor | None = None
    goal: Goal | None = None

    def __post_init__(self) -> None:
        parts = {"value": self.value}
        if self.anchor:
            parts["anchor"] = self.anchor.value
        if self.goal:
            parts["goal"] = self.goal.value
        for what, part in parts.items():
            if not math.isfinite(part):
                raise ValueError(f"figure {self.figure!r}: {what} is {part}")

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return self.goal.met_by(self.value) if self.goal else None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the anchor's; None without an anchor, or where it is 0."""
        return self.value / self.anchor.value if self.anchor and self.anchor.value else None

    def to_json(self) -> dict[str, Any]:
        """The figure with its ratio and ``met``; ``anchor`` becomes ``{value, of}``, ``goal`` becomes ``{direction, value}``."""
        return {
            "figure": self.figure,
            "value": self.value,
            "unit": self.unit,
            "anchor": {"value": self.anchor.value, "of": self.anchor.of} if self.anchor else None,
            "ratio": self.ratio,
            "goal": {"direction": self.goal.direction.value, "value": self.goal.value} if self.goal else None,
            "met": self.met,
            "how": self.how,
        }


def number(value: float) -> str:
    """Three significant digits where that is fewer than all; whole numbers whole: 0.0312, 2.04, 96.12, 1,234."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 2 if abs(value) >= 10 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def report(area: str, part: str, figures: Sequence[Figure], *, folder: Path = FOLDER, console: Console | None = None) -> Path:
    """Print the figures of one part of an area, and write them into ``folder/AREA.json``, where other parts are kept.

    Returns the file, a list of ``{"part", "measured", "machine", …figure}``. Raises ValueError when two figures of
    the part have one name.
    """
    names = [figure.figure for figure in figures]
    if len(set(names)) != len(names):
        raise ValueError(f"two figures of {area} {part} have the same name: {sorted(n for n in names if names.count(n) > 1)}")
    (console or _wide()).print(table(f"{area}: {part}", figures))
    stamp = {"part": part, "measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    path = folder / f"{area}.json"
    others = [row for row in _stored(path) if row.get("part") != part]
    rows = [*others, *({**stamp, **figure.to_json()} for figure in figures)]
    folder.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    fresh.replace(path)
    return path


def _wide() -> Console:
    """A log has no width of its own, and 80 columns would break every word."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def table(title: str, figures: Iterable[Figure]) -> Table:
    """The figures for people."""
    found = Table(title=title, title_justify="left", show_lines=False)
    for column in ("figure", "ours", "unit", "anchor", "ratio", "goal", "met", "how"):
        right = column in ("ours", "ratio", "goal")
        found.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=column in ("ours", "ratio", "goal")
        )
    for figure in figures:
        found.add_row(
            figure.figure,
            number(figure.value),
            figure.unit,
            f"{number(figure.anchor.value)} {figure.anchor.of}" if figure.anchor else "",
            f"{number(figure.ratio)} ×" if figure.ratio is not None else "",
            str(figure.goal or ""),
            {True: "yes", False: "[bold red]NO[/]", None: ""}[figure.met],
            figure.how,
        )
    return found


def machine() -> str:
    """What the figures were measured on: cores that this process may use, processor, memory."""
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} × {_processor()}, {gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _stored(path: Path) -> list[dict[str, Any]]:
    """Rows of an earlier run; a file that is not one of ours is replaced."""
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
