"""Streams that are cut on purpose: an engine is asked for the first tokens only, and another one goes on.

An answer that was cut ends like one that is full: with finish reason "length". That event goes out without its end, or not at all
where its text may not be what it would be in the middle (held back text is given out at an end), and nothing of what follows it.
Then the stream is where it would be had the engine died after that event. Deciding to cut is not done here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mica_router.core.continuation import LegEnded, LegRefused, TranslatedHead, TranslationFailed
from mica_router.core.headers import Header
from mica_router.core.resume.request import Resumable
from mica_router.core.resume.seam import REPLACEMENT
from mica_router.core.resume.transcript import bounded

# As vLLM writes them. Quotes inside a text are escaped, so no text can look like that.
_CUT: Final = b'"finish_reason":"length"'
_IDS: Final = b'"prompt_token_ids":['


def cut(request: Resumable, body: bytes, *, tokens: int) -> bytes:
    """The request for the first `tokens` of the answer, with their ids."""
    content = msgspec.json.decode(body, type=dict[str, Any])
    content.pop("max_completion_tokens", None)
    content |= {"max_tokens": tokens, "return_token_ids": True}
    if request.fields.min_tokens:
        content["min_tokens"] = min(request.fields.min_tokens, tokens)
    return msgspec.json.encode(content)


def last_counts(request: Resumable, text: str) -> bool:
    """Whether the last text of a leg is what it would be in the middle of the answer."""
    return bool(text) and not request.held_back and not text.endswith(REPLACEMENT)


def before_cut(request: Resumable, payload: bytes) -> tuple[bytes, bool]:
    """What the client gets of whole events, and whether the leg ends in them. Raises TranslationFailed."""
    at = payload.find(_CUT)
    end = payload.find(b"\n\n", at)
    if at < 0 or end < 0:
        return payload, False
    start = payload.rfind(b"\n\n", 0, at) + 2 if b"\n\n" in payload[:at] else 0
    return payload[:start] + _without_end(request, payload[start:end].removeprefix(b"data:")), True


def _without_end(request: Resumable, data: bytes) -> bytes:
    try:
        event = msgspec.json.decode(data, type=dict[str, Any])
        choice = event["choices"][0]
        text = (choice["delta"].get("content") if "delta" in choice else choice["text"]) or ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise TranslationFailed(f"the last event cannot be read: {error}") from error
    if not last_counts(request, text):
        return b""
    choice["finish_reason"] = None
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


class FirstLeg:
    """Translator of the answer to `cut`: whole events as they come, up to the cut."""

    def __init__(self, request: Resumable) -> None:
        self._request = request
        self._head: TranslatedHead | None = None
        self._rest = b""
        self._begun = False
        self._over = False

    def head(self, status: int, headers: list[Header]) -> TranslatedHead | None:
        """Not before the first event has shown that the engine tells ids."""
        self._head = TranslatedHead(status, headers)
        return None

    def late_head(self) -> TranslatedHead | None:
        """The engine's, once an event is there."""
        return self._head if self._begun else None

    def feed(self, body: bytes) -> bytes:
        """Events that the client gets. Raises LegRefused at the first one, and TranslationFailed."""
        if self._over:
            return b""
        body = self._rest + body
        end = body.rfind(b"\n\n") + 2 if b"\n\n" in body else 0
        whole, self._rest = body[:end], bounded(body[end:])
        if whole and not self._begun:
            if _IDS not in whole:
                raise LegRefused("the engine tells no token ids")
            self._begun = True
        told, self._over = before_cut(self._request, whole)
        return told

    def finish(self) -> bytes:
        """Raises LegEnded after the cut. Without it, the answer was shorter than the leg."""
        if self._over:
            raise LegEnded("all tokens of the leg are made")
        if not self._begun:
            raise LegRefused("the engine told nothing")
        return b""
