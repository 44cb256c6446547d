"""The resume book: opens a recording for every stream that could be resumed, and turns a dead stream into its continuation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from mica_router.core.continuation import PLAIN, Ask, Continuation, Ended, Handling, NotResumed, TranslationFailed
from mica_router.core.engines import Engine
from mica_router.core.features import Features
from mica_router.core.resume import engines, text_only
from mica_router.core.resume.leg import FirstLeg, before_cut, cut
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
_LONGEST_TOKEN: Final = 1024  # bytes of an event with one token: 220 as a rule
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
            # With nowhere to keep its answer, it gets the engine's own, which runs on if the client leaves.
            roomy = self.shelf.held < self.shelf.limit
            return assembling(features, self.shelf) if style == "llamacpp" and roomy and assembles(features) else PLAIN
        request = judge(features.path, features.body)
        if isinstance(request, Refused):
            return Handling(reason=request)
        body = ask_for_ids(request, features.body) if style == "vllm" else features.body
        if self.shelf.held + len(body) > self.shelf.limit or len(body) > self.shelf.each:
            return Handling(reason=Refused.BUFFER_FULL)
        tape = Tape(self.shelf, before=len(body))
        recording = Recorded(request, style, features.target, body, tape=tape)
        return tuple.__new__(Handling, (None, body, recording, None, "not_recorded", None))  # at a third of the cost

    def open_leg(self, features: Features, engine: Engine, *, tokens: int) -> Handling:
        """What `engine` gets for the first `tokens` of this request; for all of it, where it cannot be cut."""
        plain = self.open(features, engine)
        recording = plain.recording
        if not isinstance(recording, Recorded) or engine.kind != "vllm":
            return plain
        if self.shelf.held + tokens * _LONGEST_TOKEN > self.shelf.limit:
            return plain  # what the first engine says could not be kept to its cut
        request = recording.cut_by(engine)
        return plain._replace(body=cut(request, features.body, tokens=tokens), translator=FirstLeg(request))


class Recorded:
    """Recording of one stream. It begins as a tape; after a first death it is a story that further engines go on with.

    A stream that is relayed goes on at any engine that means the same by token ids. Where such a one generates again what the
    client has, and it is not the same, the stream returns to engines like the first one.
    """

    __slots__ = (
        "_body",
        "_characters",
        "_cut",
        "_deaths",
        "_origin",
        "_request",
        "_story",
        "_strict",
        "_style",
        "_tape",
        "_target",
        "heard",
    )

    def __init__(self, request: Resumable, style: Style, target: bytes, body: bytes, *, tape: Tape) -> None:
        self._request = request
        self._style = style
        self._target = target
        self._body = body
        self._tape = tape
        # Called for every read of a stream, so without a method of its own in between.
        self.heard = tape.heard
        self._story: Story | None = None
        self._deaths = 0
        self._characters = 0
        self._cut = False
        self._origin: Engine | None = None
        self._strict = False

    def cut_by(self, engine: Engine) -> Resumable:
        """This stream is relayed, and `engine` begins it."""
        self._cut, self._origin = True, engine
        return self._request

    def close(self) -> None:
        """The exchange is over."""
        self._tape.close()

    async def resume(self, engine: Engine, ask: Ask, *, leg: int | None = None) -> Continuation | Ended | NotResumed:
        """`engine` died, or ended its leg: who goes on, with what."""
        story = self._story or self._read()
        if isinstance(story, Refused):
            return NotResumed(story)
        characters = len(story.text) if story is not None else 0
        stuck, self._characters = characters <= self._characters, characters
        if leg is None or stuck:
            # A leg without progress counts as a death and is not cut again, so that everything ends.
            self._deaths, leg = self._deaths + 1, 0
        if self._deaths > _MAX_DEATHS:
            return NotResumed(Refused.TOO_OFTEN)
        if story is not None and story.forgotten:
            return NotResumed(Refused.BUFFER_FULL)
        if self._tape.full:
            leg = 0
        if story is not None and story.diverged and not self._returns(story):
            return NotResumed(Refused.DIVERGED)
        if story is None:
            self._cut = False
            return Continuation(self._target, self._body, partial(_same_kind, engine), Replay(self._tape))
        self._story = story
        if story.finished is not None:
            return Ended(story.closing())
        if self._style == "llamacpp":
            body = await text_only.prepare(story, self._body, ask)
            splice = Splice(story, tape=self._tape, opening=text_only.NOTICE)
        else:
            prepared = await self._prepare(story, ask, leg=leg)
            body = prepared if isinstance(prepared, Refused) else prepared[0]
            splice = Splice(story, tape=self._tape, cut=not isinstance(prepared, Refused) and prepared[1])
        if isinstance(body, Refused):
            return NotResumed(body)
        return Continuation(_COMPLETIONS, body, self._accepting(engine), splice)

    def _returns(self, story: Story) -> bool:
        """Whether a relayed stream may still return to engines like the first one."""
        if self._origin is None or self._strict:
            return False
        self._strict, story.diverged = True, False
        return True

    def _accepting(self, engine: Engine) -> Callable[[Engine], bool]:
        if self._origin is None:
            return engine.continues
        return self._origin.continues if self._strict else self._origin.takes_over

    def _read(self) -> Story | Refused | None:
        """The story so far. None: it has not begun."""
        if self._tape.full:
            return Refused.BUFFER_FULL
        try:
            payload = dechunk(self._tape.take())
            self._tape.keep(len(payload))
            transcript = read_transcript(before_cut(self._request, payload)[0] if self._cut else payload)
        except (Unreadable, TranslationFailed):
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

    async def _prepare(self, story: Story, ask: Ask, *, leg: int) -> tuple[bytes, bool] | Refused:
        """The request that goes on with `story` on a vLLM engine, and whether a `leg` cuts it."""
        request = self._request
        max_tokens = request.max_tokens
        if max_tokens is None:
            context = await engines.context_length(ask, model=request.fields.model)
            if context is None:
                return Refused.NO_TOKENIZER
            max_tokens = context - len(story.prompt_ids)
        seam = await self._find_seam(story, ask, max_tokens=max_tokens)
        story.rewind(tokens=seam.tokens, characters=seam.characters)
        left = max_tokens - seam.tokens
        cuts = 0 < leg < left
        return _continuation_body(self._body, story, max_tokens=leg if cuts else left), cuts

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
            "min_tokens": min(max(0, min_tokens - len(story.ids)), max_tokens),
            "temperature": 0,
            "stream": True,
            "return_token_ids": True,
        }
    )
