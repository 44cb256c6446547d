"""The resume book: opens a recording for every stream that could be resumed, and turns a dead stream into its continuation."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from mica_router.core.continuation import PLAIN, Ask, Continuation, Ended, Handling, NotResumed
from mica_router.core.engines import Engine
from mica_router.core.features import Features
from mica_router.core.resume import engines, text_only
from mica_router.core.resume.recording import Shelf, Tape
from mica_router.core.resume.refusals import Refused
from mica_router.core.resume.replay import Replay
from mica_router.core.resume.request import CARRIED, ENDPOINTS, Resumable, ask_for_ids, judge
from mica_router.core.resume.seam import START, Seam, candidates, examine, splits_bad_word
from mica_router.core.resume.splice import Splice
from mica_router.core.resume.story import Story, Style
from mica_router.core.resume.transcript import Transcript, Unreadable, dechunk, read_transcript
from mica_router.core.resume.whole import assembles, assembling

_MAX_DEATHS: Final = 8
_MAX_QUESTIONS: Final = 16
_MAX_BAD_WORDS: Final = 8
_COMPLETIONS: Final = b"/v1/completions"
_STYLES: Final[dict[str, Style]] = {"vllm": "vllm", "llamacpp": "llamacpp"}


class Book:
    """`each` and `together`: bytes that one recording and all of them may hold."""

    def __init__(self, *, each: int, together: int) -> None:
        self.shelf = Shelf(limit=together, each=each)

    def open(self, features: Features, engine: Engine) -> Handling:
        """What `engine` gets for this request."""
        if features.path not in ENDPOINTS:
            return Handling(reason=Refused.NOT_TEXT)
        style = _STYLES.get(engine.kind)
        if style is None:
            return Handling(reason=Refused.ENGINE_KIND)
        if not features.streams:
            return assembling(features) if style == "llamacpp" and assembles(features) else PLAIN
        request = judge(features.path, features.body)
        if isinstance(request, Refused):
            return Handling(reason=request)
        body = ask_for_ids(request, features.body) if style == "vllm" else features.body
        if self.shelf.held + len(body) > self.shelf.limit or len(body) > self.shelf.each:
            return Handling(reason=Refused.BUFFER_FULL)
        tape = Tape(self.shelf, before=len(body))
        return Handling(body=body, recording=Recorded(request, style, features.target, body, tape=tape))


class Recorded:
    """Recording of one stream. It begins as a tape; after a first death it is a story that further engines go on with."""

    def __init__(self, request: Resumable, style: Style, target: bytes, body: bytes, *, tape: Tape) -> None:
        self._request = request
        self._style = style
        self._target = target
        self._body = body
        self._tape = tape
        self._story: Story | None = None
        self._deaths = 0

    def heard(self, data: bytes) -> bool:
        """One more read."""
        return self._tape.heard(data)

    def close(self) -> None:
        """The exchange is over."""
        self._tape.close()

    async def resume(self, engine: Engine, ask: Ask) -> Continuation | Ended | NotResumed:
        """`engine` died: who goes on, with what."""
        self._deaths += 1
        if self._deaths > _MAX_DEATHS:
            return NotResumed(Refused.TOO_OFTEN)
        story = self._story or self._read()
        if isinstance(story, Refused):
            return NotResumed(story)
        if story is not None and story.diverged:
            return NotResumed(Refused.DIVERGED)
        if story is None:
            return Continuation(self._target, self._body, partial(_same_kind, engine), Replay(self._tape))
        self._story = story
        if story.finished is not None:
            return Ended(story.closing())
        if self._style == "llamacpp":
            body = await text_only.prepare(story, self._body, ask)
            splice = Splice(story, opening=text_only.NOTICE)
        else:
            body = await self._prepare(story, ask)
            splice = Splice(story)
        if isinstance(body, Refused):
            return NotResumed(body)
        return Continuation(_COMPLETIONS, body, engine.continues, splice)

    def _read(self) -> Story | Refused | None:
        """The story so far. None: it has not begun."""
        if self._tape.full:
            return Refused.BUFFER_FULL
        try:
            transcript = read_transcript(dechunk(self._tape.take()))
        except Unreadable:
            return Refused.UNREADABLE
        if not isinstance(transcript, Transcript):
            return transcript
        if self._style == "vllm" and not (transcript.identified and transcript.prompt_ids is not None):
            return Refused.NO_TOKEN_IDS
        return self._begin(transcript)

    def _begin(self, transcript: Transcript) -> Story:
        prompt_ids = transcript.prompt_ids or []
        return Story(
            request=self._request,
            style=self._style,
            identity=transcript.identity,
            prompt_ids=prompt_ids,
            prompt_tokens=len(prompt_ids),
            ids=transcript.ids,
            boundaries=transcript.boundaries,
            text=transcript.text,
            client_ids=len(transcript.ids),
            finished=transcript.finished,
            counted=transcript.counted,
            done=transcript.done,
        )

    async def _prepare(self, story: Story, ask: Ask) -> bytes | Refused:
        """The request that goes on with `story` on a vLLM engine."""
        request = self._request
        max_tokens = request.max_tokens
        if max_tokens is None:
            context = await engines.context_length(ask, model=request.fields.model)
            if context is None:
                return Refused.NO_TOKENIZER
            max_tokens = context - len(story.prompt_ids)
        seam = await self._find_seam(story, ask, max_tokens=max_tokens)
        story.rewind(tokens=seam.tokens, characters=seam.characters)
        return _continuation_body(self._body, story, max_tokens=max_tokens - seam.tokens)

    async def _find_seam(self, story: Story, ask: Ask, *, max_tokens: int) -> Seam:
        request, model = self._request, self._request.fields.model
        bad_words = await self._spellings(ask)
        wanted = candidates(
            story.boundaries,
            delivered=len(story.text),
            held_back=request.held_back,
            cut_off=not request.fields.include_stop_str_in_output,
            max_tokens=max_tokens,
        )
        if bad_words is None:
            return START
        for seam in wanted[:_MAX_QUESTIONS]:
            ids = story.ids[: seam.tokens]
            if splits_bad_word(ids, bad_words):
                continue
            verdict = examine(seam, await engines.text_of(ask, model=model, ids=ids), delivered=story.text)
            if verdict.fits:
                return seam
            if verdict.hopeless:
                break
        return START

    async def _spellings(self, ask: Ask) -> list[list[int]] | None:
        """Token ids of the request's bad words; None when they cannot be told."""
        words = self._request.fields.bad_words or []
        if len(words) > _MAX_BAD_WORDS:
            return None
        return await engines.spellings(ask, model=self._request.fields.model, words=words)


def _same_kind(dead: Engine, engine: Engine) -> bool:
    """Nothing was said yet, so only the dialect must be the same."""
    return engine.kind == dead.kind


def _continuation_body(body: bytes, story: Story, *, max_tokens: int) -> bytes:
    """The request of the rest: what the client asked for, from token ids."""
    asked = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    carried: dict[str, object] = {name: asked[name] for name in CARRIED if name in asked}
    min_tokens = story.request.fields.min_tokens or 0
    return msgspec.json.encode(
        carried
        | {
            "prompt": [*story.prompt_ids, *story.ids],
            "max_tokens": max_tokens,
            "min_tokens": max(0, min_tokens - len(story.ids)),
            "temperature": 0,
            "stream": True,
            "return_token_ids": True,
        }
    )
