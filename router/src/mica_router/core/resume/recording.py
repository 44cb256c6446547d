"""Bytes of streams that could be resumed: kept as they came, within bounds, and read by nobody until an engine dies.

A read in which the engine says that it gave up (an error event, or a finish reason that no model gives) is found by its bytes: in
JSON, quotes inside a text are escaped, so no text can look like that.
"""

from __future__ import annotations


def gives_up(data: bytes) -> bool:
    """Whether these bytes of a stream hold an error event, or the end of an answer that was not finished."""
    return b'{"error"' in data or b'"finish_reason":"abort"' in data or b'"finish_reason":"error"' in data


class Shelf:
    """What all recordings of one process may hold together, in bytes. One event loop owns it."""

    def __init__(self, *, limit: int, each: int) -> None:
        self.limit = limit
        self.each = each
        self.held = 0


class Tape:
    """One stream's bytes, after `before` bytes that are held for it anyway. `full`: it let go of them, and records no more."""

    __slots__ = ("_before", "_parts", "_shelf", "_size", "full")

    def __init__(self, shelf: Shelf, *, before: int = 0) -> None:
        self._shelf = shelf
        self._parts: list[bytes] = []
        self._before = before
        self._size = before
        self.full = False
        shelf.held += before

    def heard(self, data: bytes) -> bool:
        """Keep these too, unless the engine says in them that it gave up: then it is as good as dead, and True is returned."""
        # Called for every read of a stream: two searches, and no second call.
        if (b'"error"' in data or b'"abort"' in data) and gives_up(data):
            return True
        if self.full:
            return False
        size = len(data)
        shelf = self._shelf
        shelf.held += size
        self._size += size
        if self._size > shelf.each or shelf.held > shelf.limit:
            self.full = True
            self._drop()
        else:
            self._parts.append(data)
        return False

    def take(self) -> bytes:
        """Everything so far; afterwards the tape is empty."""
        data = b"".join(self._parts)
        self._drop()
        return data

    def _drop(self) -> None:
        self._shelf.held -= self._size - self._before
        self._size = self._before
        self._parts = []

    def close(self) -> None:
        """Let go of everything, for good."""
        self._drop()
        self._shelf.held -= self._before
        self._before = self._size = 0
        self.full = True
