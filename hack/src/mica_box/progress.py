"""What the user sees while something long runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the user."""
    console.print(text, markup=False)
    sys.stderr.flush()


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what starts, and how long it took when it ended well."""
    start = time.monotonic()
    say(f"… {text}")
    yield
    took = time.monotonic() - start
    if took >= 1.0:
        say(f"✓ {text} ({took:.0f} s)")


def remaining_s(done: int, total: int, elapsed_s: float) -> float | None:
    """Expected seconds left when `done` of `total` equal units took `elapsed_s`; None while unknown."""
    if done <= 0 or total <= 0:
        return None
    return elapsed_s / done * max(0, total - done)


class Meter:
    """Counts units of one long step and shows how many are left and for how long."""

    def __init__(self, text: str, total: int) -> None:
        self._text, self._total, self._done = text, total, 0
        self._start = self._last = time.monotonic()
        self._bar = self._make_bar() if console.is_terminal else None
        self._task = self._bar.add_task(text, total=total) if self._bar else None

    @staticmethod
    def _make_bar() -> Progress:
        columns = (
            TextColumn("… {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        return Progress(*columns, console=console)

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        else:
            say(f"… {self._text}: {self._total} to do")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, text: str | None = None) -> None:
        """One more unit is done; `text` replaces the description."""
        self._done = min(self._done + 1, self._total)
        self._text = text or self._text
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=self._text)
            return
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            left = remaining_s(self._done, self._total, now - self._start)
            hint = f", about {left:.0f} s left" if left is not None else ""
            say(f"… {self._text}: {self._done}/{self._total}{hint}")
