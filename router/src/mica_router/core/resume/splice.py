"""Events of an engine that goes on with a broken answer, made into those that the client still lacks. See `story`."""

from __future__ import annotations

from mica_router.core.continuation import LegEnded, TranslatedHead, TranslationFailed
from mica_router.core.headers import Header
from mica_router.core.resume.leg import last_counts
from mica_router.core.resume.recording import Tape
from mica_router.core.resume.story import Diverged, Story
from mica_router.core.resume.transcript import DONE, GAVE_UP, Event, Unreadable, bounded, read_event, split_events


class Splice:
    """Translator of a continuation. `opening` goes out before its first event. `cut`: the engine was not asked for all that is
    left, so that it is not the answer's end when it has made its tokens. `tape` counts what the story keeps."""

    def __init__(self, story: Story, *, tape: Tape, opening: bytes = b"", cut: bool = False) -> None:
        self._story = story
        self._tape = tape
        self._opening = opening
        self._cut = cut
        self._over = False
        self._rest = b""
        self._failure: TranslationFailed | None = None

    def head(self, status: int, headers: list[Header]) -> TranslatedHead | None:
        """The client has its head."""
        return None

    def late_head(self) -> TranslatedHead | None:
        """The client has its head."""
        return None

    def feed(self, body: bytes) -> bytes:
        """Events that the client lacks. Raises TranslationFailed, after which nothing of this engine may be used."""
        whole, rest = split_events(self._rest + body)
        self._rest = bounded(rest)
        if not self._tape.keep(len(body)) and not self._cut:
            # This engine goes on to the end, and nobody after it. A leg is short, and what it said is needed after it.
            self._story.forget()
        out = self._events(whole)
        if not out:
            return b""
        opening, self._opening = self._opening, b""
        return opening + out

    def _events(self, whole: list[bytes]) -> bytes:
        """What is new in these. A failure waits until what came before it has gone out."""
        if self._failure is not None:
            raise self._failure
        out = []
        for data in whole:
            try:
                out.append(self._event(data))
            except TranslationFailed as failure:
                self._failure = failure
                break
        told = b"".join(out)
        if self._failure is not None and not told:
            raise self._failure
        return told

    def finish(self) -> bytes:
        """The end. Raises LegEnded when only the leg has, and TranslationFailed when the answer itself had not ended."""
        if self._failure is not None:
            raise self._failure
        if self._over:
            raise LegEnded("all tokens of the leg are made")
        if self._story.finished is None:
            raise TranslationFailed("the stream ended without a finish reason")
        return self._story.closing()

    def _event(self, data: bytes) -> bytes:
        if self._over:
            return b""
        if data == DONE:
            return self.finish()
        try:
            event = read_event(data)
        except Unreadable as error:
            raise TranslationFailed(f"an event cannot be read: {error}") from error
        if event.error is not None:
            raise TranslationFailed(f"the engine gave up: {event.error!r:.200}")
        try:
            return self._told(event)
        except Diverged as error:
            raise TranslationFailed(str(error)) from error

    def _told(self, event: Event) -> bytes:
        story = self._story
        if story.style == "llamacpp" and event.usage is not None:
            story.tokens_before += event.usage.completion_tokens or 0
        if not event.choices or story.finished is not None:
            return b""
        choice = event.choices[0]
        if choice.finish_reason in GAVE_UP:
            raise TranslationFailed("the engine gave up")
        if story.style == "vllm" and choice.said and choice.token_ids is None:
            raise TranslationFailed("the engine sends no token ids")
        if self._cut and choice.finish_reason == "length":
            self._over = True
            if not last_counts(story.request, choice.said):
                return b""
            return story.say(choice.said, choice.token_ids, finish=None, stop_reason=None)
        return story.say(choice.said, choice.token_ids, finish=choice.finish_reason, stop_reason=choice.stop_reason)
