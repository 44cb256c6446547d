"""Places that all workers share and of which there are only so many: at an engine, in a line."""

from __future__ import annotations

from mica_router.ports import Counted, Counts


def take_place(counts: Counts, counted: Counted, *, most: int) -> bool:
    """One more, unless that would be more than `most` of all workers together.

    Counted first and looked at after: of two workers that look at the same moment, none may find the same last place free.
    """
    counts.add(counted, 1)
    if counts.get(counted) <= most:
        return True
    counts.add(counted, -1)
    return False
