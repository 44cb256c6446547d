"""Request heads that were read before: clients send the same one again and again, and it means the same again.

Not a parser: what a head means is found out by `core.request` (llhttp, strict) when it is seen for the first time. Only heads of
whole requests are kept whose body is framed by Content-Length and whose connection goes on; such a head, byte for byte, is
accepted in one lookup. Bounded by number and by size; when full it starts anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mica_router.core.request import Request

_MAX_HEADS: Final = 1024
_MAX_BYTES: Final = 2048
"""Of one head: what cannot repeat (long cookies, signed URLs) is not worth it. With what is known of them 10 MiB at most."""


class KnownHead(NamedTuple):
    """What a head means: a request without its body. `size` is what it counts for against the limits; `length` is the body's."""

    request: Request
    size: int
    length: int


class KnownHeads:
    """Heads by their bytes, the empty line included. One event loop owns it. `find` says what a head means that was seen before.

    Heads hold API keys. That a key is right is remembered with its head, and a head is found by a keyed hash (SipHash) of all its
    bytes before any are compared, so a lookup tells nothing about a key to who does not have it.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        # The dictionary's own method: every request is looked up.
        self.find = self._heads.get

    def keep(self, head: bytes, known: KnownHead) -> None:
        """Remember what a head means."""
        if len(head) > _MAX_BYTES:
            return
        if len(self._heads) >= _MAX_HEADS:
            self.forget()
        self._heads[head] = known

    def forget(self) -> None:
        """All of them: what is noted about a head that does not come again holds a whole table of routes."""
        self._heads.clear()
