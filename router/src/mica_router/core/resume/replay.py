"""The same request once more, when the first engine died before its first event: nothing was said, so nothing has to fit."""

from __future__ import annotations

from mica_router.core.continuation import TranslatedHead, TranslationFailed
from mica_router.core.headers import Header
from mica_router.core.resume.recording import Tape
from mica_router.core.resume.transcript import DONE, bounded


class Replay:
    """Passes whole events on and records them, so that this engine may die as well."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._rest = b""
        self._tail = b""

    def head(self, status: int, headers: list[Header]) -> TranslatedHead | None:
        """The client has its head."""
        return None

    def late_head(self) -> TranslatedHead | None:
        """The client has its head."""
        return None

    def feed(self, body: bytes) -> bytes:
        """Whole events. Raises TranslationFailed where the engine tells of an error instead, and where one is too long."""
        body = self._rest + body
        end = body.rfind(b"\n\n") + 2 if b"\n\n" in body else 0
        whole, self._rest = body[:end], bounded(body[end:])
        if self._tape.heard(whole):
            raise TranslationFailed("the engine gave up")
        self._tail = (self._tail + whole)[-64:]
        return whole

    def finish(self) -> bytes:
        """The end. Raises TranslationFailed when the answer itself had not ended."""
        if DONE not in self._tail:
            raise TranslationFailed("the stream ended without its end mark")
        return b""
