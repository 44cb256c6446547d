"""What is done for every read of a steady stream, in Python: what the C part (`_native.c`) equals, and what runs without it.

Base classes, which hold the few fields that every read needs and do with them what every read needs; everything else is in the
classes that inherit from them. Nothing here waits or opens anything.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, NamedTuple

from mica_router.core.chunks import EVENT_END, LONGEST, ONE_BYTE, OPENINGS, WHOLE, whole_chunks

_IN_EITHER: Final = b"or"
"""In "error" as well as in "abort"."""
MOST_BOUNDS: Final = 16


def gives_up(data: bytes) -> bool:
    """Whether these bytes of a stream hold an error event, or the end of an answer that was not finished."""
    return b'{"error"' in data or b'"finish_reason":"abort"' in data or b'"finish_reason":"error"' in data


class Outlet(NamedTuple):
    """Where an answer goes. `file`: the client's socket, negative where bytes must not be sent past the transport.

    Python writes through the transport always; in C that is for when it is closing or has something `queued`, or when the socket
    takes only a part. Either way the same bytes go out in the same order.
    """

    write: Callable[[bytes], None]
    file: int
    closing: Callable[[], bool]
    queued: Callable[[], int]


class Histogram:
    """Counts per bucket (the last one is above all bounds, which rise) and the sum, in seconds.

    Raises ValueError for more bounds than `MOST_BOUNDS`.
    """

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        if len(bounds) > MOST_BOUNDS:
            raise ValueError(f"at most {MOST_BOUNDS} bounds")
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Record one value."""
        self.buckets[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class Reel:
    """Where a recording's bytes go: `_parts`, as long as `_left` bytes are left of what it may take without asking."""

    __slots__ = ("_left", "_parts")

    _left: int
    _parts: list[bytes]

    def heard(self, data: bytes) -> bool:
        """Keep these too, unless the engine says in them that it gave up: then it is as good as dead, and True is returned."""
        # One search (`find`, because `in` costs twice that), and no second call.
        if data.find(_IN_EITHER) >= 0 and gives_up(data):
            return True
        left = self._left - len(data)
        if left < 0:
            return self._ask_for_more(data)
        self._left = left
        self._parts.append(data)
        return False

    @abstractmethod
    def _ask_for_more(self, data: bytes) -> bool:
        """The same, when what was allowed is used up."""


class Passing:
    """The part of an exchange that passes reads on. `_heard_at`: when the engine said something last; 0 before it did."""

    __slots__ = ("_clock", "_gaps", "_hear", "_heard_at", "_write")

    _heard_at: float
    _clock: Callable[[], float]
    _gaps: Histogram
    _hear: Callable[[bytes], bool] | None
    _write: Callable[[bytes], None]

    def steady(
        self, clock: Callable[[], float], gaps: Histogram, hear: Callable[[bytes], bool] | None, outlet: Outlet, /
    ) -> None:
        """What `pass_on` works with."""
        self._clock, self._gaps, self._hear, self._write = clock, gaps, hear, outlet.write

    def pass_on(self, data: bytes) -> bool:
        """Pass on whole chunks of whole events. False: it is something else, or an engine that gives up; nothing was done.

        The engine's deadline needs nothing here: it is checked against `_heard_at`.
        """
        size = len(data)
        if size >= LONGEST or data[-4:] != EVENT_END:
            return False
        count, opening = OPENINGS[size]
        if data[:count] != opening and (data.endswith(ONE_BYTE) or whole_chunks(data) != WHOLE):
            return False
        hear = self._hear
        if hear is not None and hear(data):
            return False
        now, gaps = self._clock(), self._gaps
        gap = now - self._heard_at
        self._heard_at = now
        gaps.buckets[bisect_left(gaps.bounds, gap)] += 1
        gaps.total += gap
        self._write(data)
        return True


class Line:
    """The part of a connection to an engine that reads. `short_way` is tried first, until it says False; then `long_way`."""

    __slots__ = ("short_way",)

    short_way: Callable[[bytes], bool] | None

    def data_received(self, data: bytes) -> None:
        """Bytes of the engine."""
        short_way = self.short_way
        if short_way is not None:
            if short_way(data):
                return
            self.short_way = None
        self.long_way(data)

    @abstractmethod
    def long_way(self, data: bytes) -> None:
        """What the short way does not do."""
