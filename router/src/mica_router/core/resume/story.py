"""The answer that the client gets, over all engines that it takes: what it has, and the events that it still gets.

Events are rendered in vLLM's shape, which is OpenAI's with nulls; llama.cpp's differs in two places that `style` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from mica_router.core.resume.request import Resumable
from mica_router.core.resume.transcript import DONE, Boundary, Identity

Style = Literal["vllm", "llamacpp"]
_OBJECTS: Final = {"chat": "chat.completion.chunk", "completions": "text_completion"}


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """`usage` of an answer."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int


@dataclass(slots=True, kw_only=True)
class Story:
    """State of one answer after its first engine died.

    `prompt_ids` are empty where the engine tells none. `ids` and `boundaries` are those of the engines that count: what came
    after a seam was generated again. `text` is what the client has, `position` where the present engine is in it. `client_ids`:
    how many ids the client has. `tokens_before`: tokens that are not in `ids` (llama.cpp tells none). `diverged`: it can never go
    on. `forgotten`: no more than what is needed to tell it to the end is kept.
    """

    request: Resumable
    style: Style
    identity: Identity
    prompt_ids: list[int]
    prompt_tokens: int
    ids: list[int]
    boundaries: list[Boundary]
    text: str
    client_ids: int
    finished: str | None = None
    counted: bool = False
    done: bool = False
    tokens_before: int = 0
    position: int = 0
    diverged: bool = False
    forgotten: bool = False

    def forget(self) -> None:
        """There is no room to keep it: from here on it is told and not kept, and no further engine can go on with it."""
        self.forgotten = True

    def _let_go(self) -> None:
        owed = self._ids_for_client() is not None and len(self.ids) < self.client_ids
        if self.position < len(self.text) or owed:
            return  # the present engine has still to say again what the client has
        self.tokens_before += len(self.ids)
        self.ids, self.boundaries, self.prompt_ids, self.text = [], [], [], ""
        self.position = self.client_ids = 0

    def rewind(self, *, tokens: int, characters: int) -> None:
        """Keep `tokens`, whose text is `characters` long; what follows comes from another engine."""
        del self.ids[tokens:]
        self.boundaries = [boundary for boundary in self.boundaries if boundary.tokens <= tokens]
        self.position = characters

    def say(self, text: str, ids: list[int] | None, *, finish: str | None, stop_reason: str | int | None) -> bytes:
        """An engine said this after what counts so far; the event for what is new of it. Raises Diverged.

        `ids` of None: the engine does not tell.
        """
        known = self.text[self.position : self.position + len(text)]
        if text[: len(known)] != known:
            self.diverged = True
            raise Diverged(f"{known!r} was given out, and {text[: len(known)]!r} was generated again")
        self.position += len(text)
        new = text[len(known) :]
        self.text += new
        self.ids.extend(ids or ())
        if text:
            self.boundaries.append(Boundary(len(self.ids), self.position, clean=ids is not None and len(ids) == 1))
        if finish and self.position < len(self.text):
            self.diverged = True
            raise Diverged("generated again, the answer is shorter than what was given out")
        self.finished = finish
        event = self._event(new, stop_reason) if new or finish or self._ids_for_client() else b""
        if self.forgotten:
            self._let_go()
        return event

    def _ids_for_client(self) -> list[int] | None:
        asked = self.request.fields.return_token_ids and self.style == "vllm"
        return self.ids[self.client_ids :] if asked else None

    def _event(self, text: str, stop_reason: str | int | None) -> bytes:
        choice: dict[str, object] = {"index": 0}
        if self.request.endpoint == "chat":
            choice["delta"] = {"content": text} if text or self.style == "vllm" else {}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": self.finished}
        if self.style == "vllm":
            ids = self._ids_for_client()
            choice |= {"stop_reason": stop_reason, "token_ids": ids}
            self.client_ids = max(self.client_ids, len(self.ids)) if ids is not None else self.client_ids
        usage = self.counts() if self.request.continuous_usage or self._counts_at_the_end() else None
        self.counted = self.counted or self._counts_at_the_end()
        return self._render([choice], usage)

    def _counts_at_the_end(self) -> bool:
        """llama.cpp tells the counts with the last event of a completion, asked or not."""
        return self.style == "llamacpp" and self.request.endpoint == "completions" and self.finished is not None

    def counts(self) -> Counts:
        """Tokens so far, as one engine would have counted them."""
        made = self.tokens_before + len(self.ids)
        total = self.prompt_tokens + made
        return Counts(prompt_tokens=self.prompt_tokens, total_tokens=total, completion_tokens=made)

    def closing(self) -> bytes:
        """What a finished answer still lacks: the counts, if they were asked for, and the end mark."""
        if self.done:
            return b""
        self.done = True
        counts = self._render([], self.counts()) if self.request.include_usage and not self.counted else b""
        self.counted = True
        return counts + b"data: " + DONE + b"\n\n"

    def _render(self, choices: list[dict[str, object]], usage: Counts | None) -> bytes:
        identity = self.identity
        event: dict[str, object] = {
            "id": identity.id,
            "object": _OBJECTS[self.request.endpoint],
            "created": identity.created,
            "model": identity.model,
            "choices": choices,
        }
        if usage is not None:
            event["usage"] = usage
        if identity.system_fingerprint is not None:
            event["system_fingerprint"] = identity.system_fingerprint
        return b"data: " + msgspec.json.encode(event) + b"\n\n"


class Diverged(Exception):
    """What was generated again is not what the client has: going on would garble the text."""
