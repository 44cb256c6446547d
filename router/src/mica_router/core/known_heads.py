"""Request heads that were read before: clients send the same one again and again, and it means the same again.

Not a parser: what a head means is found out by `core.request` (llhttp, strict) when it is seen for the first time. Only heads of
whole requests are kept whose body is framed by Content-Length and whose connection goes on; such a head, byte for byte, is
accepted in one lookup. Bounded by number and by size; when full it starts anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from mica_router.core.headers import Header

_MAX_HEADS: Final = 2048
_MAX_BYTES: Final = 4096
"""Of one head: 8 MiB in all, and what cannot repeat (long cookies, signed URLs) is not worth it."""


class KnownHead(NamedTuple):
    """What a head means. `size` is what it counts for against the limits; `length` is that of the body."""

    method: bytes
    target: bytes
    headers: list[Header]
    lookup: Mapping[bytes, bytes]
    forwarded: bytes
    size: int
    length: int


class KnownHeads:
    """Heads by their bytes, the empty line included. One event loop owns it."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, head: bytes) -> KnownHead | None:
        """What these bytes mean, if they were seen before."""
        return self._heads.get(head)

    def keep(self, head: bytes, known: KnownHead) -> None:
        """Remember what a head means."""
        if len(head) > _MAX_BYTES:
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[head] = known
