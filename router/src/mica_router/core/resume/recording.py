"""Bytes of streams that could be resumed: kept as they came, within bounds, and read by nobody until an engine dies."""

from __future__ import annotations


class Shelf:
    """What all recordings of one process may hold together, in bytes. One event loop owns it."""

    def __init__(self, *, limit: int, each: int) -> None:
        self.limit = limit
        self.each = each
        self.held = 0


class Tape:
    """One stream's bytes. `full`: it had to let go of them, and records no more."""

    __slots__ = ("_parts", "_shelf", "_size", "full")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._parts: list[bytes] = []
        self._size = 0
        self.full = False

    def append(self, data: bytes) -> None:
        """Keep these too."""
        if self.full:
            return
        size = self._size + len(data)
        self._shelf.held += len(data)
        self._size = size
        if size > self._shelf.each or self._shelf.held > self._shelf.limit:
            self.full = True
            self._drop()
        else:
            self._parts.append(data)

    def take(self) -> bytes:
        """Everything so far; afterwards the tape is empty."""
        data = b"".join(self._parts)
        self._drop()
        return data

    def _drop(self) -> None:
        self._shelf.held -= self._size
        self._size = 0
        self._parts = []

    def close(self) -> None:
        """Let go of everything."""
        self._drop()
