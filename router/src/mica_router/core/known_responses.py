"""Response heads that were read before: an engine sends the same one again within a second, and it means the same again.

Not a parser: what a head means is found out by `core.response` (llhttp) when it is seen for the first time. Bounded by number and
by size; when full it starts anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mica_router.core.response import ResponseHead

_MAX_HEADS: Final = 1024
_MAX_BYTES: Final = 2048


class KnownResponse(NamedTuple):
    """What a head means. `length` is that of the body, None where chunks or the connection's end frame it."""

    head: ResponseHead
    length: int | None


class KnownResponses:
    """Heads by their bytes, the empty line included. One event loop owns it. `find` says what a known one means."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownResponse] = {}
        # The dictionary's own method: every answer is looked up.
        self.find = self._heads.get

    def keep(self, head: bytes, known: KnownResponse) -> None:
        """Remember what a head means."""
        if len(head) > _MAX_BYTES:
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[head] = known
