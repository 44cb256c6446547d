"""Bytes of streams that could be resumed: kept as they came, within bounds, and read by nobody until an engine dies.

A read in which the engine says that it gave up (an error event, or a finish reason that no model gives) is found by its bytes: in
JSON, quotes inside a text are escaped, so no text can look like that.
"""

from __future__ import annotations

from typing import Final

from mica_router.core.continuation import TooLong
from mica_router.hot import Reel

_STEP: Final = 4096


class Shelf:
    """What all recordings of one process may hold together, in bytes. One event loop owns it.

    `held` is what they may take without asking again, which is up to `_STEP` bytes more than what they have taken.
    """

    def __init__(self, *, limit: int, each: int) -> None:
        self.limit = limit
        self.each = each
        self.held = 0


class Kept:
    """What one translator keeps on a shelf, at most `limit` bytes."""

    __slots__ = ("_limit", "_shelf", "_size")

    def __init__(self, shelf: Shelf, *, limit: int) -> None:
        self._shelf = shelf
        self._limit = limit
        self._size = 0

    def add(self, size: int) -> None:
        """So much more. Raises TooLong."""
        self._size += size
        self._shelf.held += size
        if self._size > self._limit:
            raise TooLong(self._limit)
        if self._shelf.held > self._shelf.limit:
            raise TooLong(self._shelf.limit, together=True)

    def close(self) -> None:
        """Let go of everything."""
        self._shelf.held -= self._size
        self._size = 0


class Tape(Reel):
    """One stream's bytes, after `before` bytes that are held for it anyway. `full`: it let go of them, and records no more."""

    __slots__ = ("_before", "_held", "_shelf", "full")

    def __init__(self, shelf: Shelf, *, before: int = 0) -> None:
        self._shelf = shelf
        self._parts = []
        self._before = before
        self._held = before
        self._left = 0
        self.full = False
        shelf.held += before

    def _ask_for_more(self, data: bytes) -> bool:
        """Keep these, when what the shelf allowed is used up."""
        if self.keep(len(data)):
            self._parts.append(data)
        return False

    def keep(self, size: int) -> bool:
        """Count bytes, also those that are kept elsewhere for this stream. False: there is no room, now and for good."""
        if self.full:
            return False
        shelf = self._shelf
        room = shelf.each - self._held
        if room > shelf.limit - shelf.held:
            room = shelf.limit - shelf.held
        more = size - self._left
        if more > room:
            self.full = True
            self._drop()
            return False
        if more < _STEP:
            more = 0 if more <= 0 else _STEP if room > _STEP else room
        shelf.held += more
        self._held += more
        self._left += more - size
        return True

    def take(self) -> bytes:
        """Everything so far; afterwards the tape is empty."""
        data = b"".join(self._parts)
        self._drop()
        return data

    def _drop(self) -> None:
        self._shelf.held -= self._held - self._before
        self._held = self._before
        self._left = 0
        self._parts = []

    def close(self) -> None:
        """Let go of everything, for good."""
        self._shelf.held -= self._held
        self._before = self._held = self._left = 0
        self._parts = []
        self.full = True
