"""Requests in flight per engine and held per service, shared by the workers of one router through memory that all have mapped.

One row per engine or service, one column per worker. A worker writes its own column only, so nothing needs a lock; a reader
adds up a row. A worker that dies leaves nothing behind: whoever notices clears its column. Rows are given out by the supervisor,
who sends them with the route table, and are used again only when they hold nothing.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from typing import Final

from mica_router.ports import Counted

ROWS: Final = 4096
_CELL: Final = 8


class Board:
    """The memory. `file` is a descriptor that other processes inherit."""

    def __init__(self, file: int, *, workers: int, rows: int = ROWS) -> None:
        self.file = file
        self.workers = workers
        self.rows = rows
        self._memory = mmap.mmap(file, workers * rows * _CELL)
        self._cells = memoryview(self._memory).cast("q")

    @classmethod
    def create(cls, *, workers: int, rows: int = ROWS) -> Board:
        """A board of zeros. Raises OSError."""
        file = os.memfd_create("mica-router-board", 0)
        os.ftruncate(file, workers * rows * _CELL)
        return cls(file, workers=workers, rows=rows)

    def add(self, row: int, column: int, by: int) -> None:
        """Change one's own cell."""
        self._cells[row * self.workers + column] += by

    def cell(self, row: int, column: int) -> int:
        """One worker's count."""
        return self._cells[row * self.workers + column]

    def total(self, row: int) -> int:
        """Of all workers."""
        start = row * self.workers
        return sum(self._cells[start : start + self.workers])

    def clear_column(self, column: int) -> None:
        """A worker is gone."""
        for row in range(self.rows):
            self._cells[row * self.workers + column] = 0


class Rows:
    """Which engine or service has which row; the supervisor's. Those that are gone keep theirs until nothing is counted there."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._rows: dict[Counted, int] = {}
        self._free = list(range(board.rows - 1, -1, -1))

    def assign(self, those: Iterable[Counted]) -> Mapping[Counted, int]:
        """Rows of these. Beyond the size of the board some have none, and workers count them alone."""
        wanted = set(those)
        for gone in [known for known in self._rows if known not in wanted]:
            if self._board.total(self._rows[gone]) == 0:
                self._free.append(self._rows.pop(gone))
        for counted in sorted(wanted - self._rows.keys(), key=str):
            if self._free:
                self._rows[counted] = self._free.pop()
        return {counted: row for counted, row in self._rows.items() if counted in wanted}


class SharedCounts:
    """`Counts` of one worker."""

    def __init__(self, board: Board, *, column: int) -> None:
        self._board = board
        self._column = column
        self._rows: dict[Counted, int] = {}
        self._alone: dict[Counted, int] = {}

    def use(self, rows: Mapping[Counted, int]) -> None:
        """The rows of a new table. An engine that left it keeps its row while this worker has requests there."""
        kept = {
            counted: row for counted, row in self._rows.items() if counted not in rows and self._board.cell(row, self._column)
        }
        for counted, row in rows.items():
            count = self._alone.pop(counted, 0)
            if count:
                self._board.add(row, self._column, count)
        self._rows = {**kept, **rows}

    def add(self, counted: Counted, by: int, /) -> None:
        """One more or one less, of this worker's."""
        row = self._rows.get(counted)
        if row is not None:
            self._board.add(row, self._column, by)
            return
        count = self._alone.get(counted, 0) + by
        if count:
            self._alone[counted] = count
        else:
            self._alone.pop(counted, None)

    def get(self, counted: Counted, /) -> int:
        """How many, of all workers."""
        row = self._rows.get(counted)
        return self._alone.get(counted, 0) if row is None else self._board.total(row)
