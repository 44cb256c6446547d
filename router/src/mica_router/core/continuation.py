"""The seam for requests whose bytes do not simply pass through: recording for resume, continuing, assembling. Ports only.

The exchange asks the `ResumeBook` once per attempt what the engine gets and what to do with its answer. For most requests that is
`PLAIN`: nothing is changed and nothing is kept.

* A `Recording` keeps the engine's bytes (capped, not parsed) of a stream that could be resumed. When the engine dies in the
  middle of it, the exchange awaits `resume`, sends the `Continuation` to an engine that `accepts` it, and from then on passes
  what that engine says through the continuation's `Translator`.
* A `Translator` may also be there from the first attempt (an answer that is streamed upstream and assembled for the client).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from mica_router.core.engines import Engine
from mica_router.core.features import Features
from mica_router.core.headers import Header


class Reply(NamedTuple):
    """A whole answer to a side call."""

    status: int
    body: bytes


# path, JSON body -> answer of an engine that could go on. Raises OSError (also where there is none) or TimeoutError.
Ask = Callable[[str, bytes], Awaitable[Reply]]


class TranslatedHead(NamedTuple):
    """The head that a client gets. `length`: of the body, None for a body of chunks (which the exchange frames)."""

    status: int
    headers: list[Header]
    length: int | None = None


class TranslationFailed(Exception):
    """The engine's answer cannot be made into what the client should get; the message is for the log."""


class TooLong(TranslationFailed):
    """It would take more than `limit` bytes to translate it. `together`: of all answers that are being translated."""

    def __init__(self, limit: int, *, together: bool = False) -> None:
        super().__init__(f"more than the {limit} bytes that may be kept")
        self.limit = limit
        self.together = together


class LegEnded(TranslationFailed):
    """Not a failure: the engine made all the tokens that it was asked for, and the client is owed more."""


class LegRefused(TranslationFailed):
    """Nothing was given out, and this engine's answer cannot be cut: it must be asked for the whole."""


class Translator(Protocol):
    """Makes the client's answer of an engine's. All bytes are free of transfer coding.

    `head` is called once with the engine's head; a translator that has not enough for a head yet returns None and is asked again
    by `late_head` after every `feed` and after `finish`. A translator of a continuation is never asked for a head.
    """

    def head(self, status: int, headers: list[Header]) -> TranslatedHead | None:
        """The client's head, from the engine's."""

    def late_head(self) -> TranslatedHead | None:
        """The client's head, as soon as it is known."""

    def feed(self, body: bytes) -> bytes:
        """Body bytes for the client. Raises TranslationFailed."""

    def finish(self) -> bytes:
        """The engine's answer is complete; the last bytes for the client. Raises TranslationFailed."""


class Continuation(NamedTuple):
    """How a broken stream goes on. `accepts`: which engines may take it. `target` and `body`: what that engine gets."""

    target: bytes
    body: bytes
    accepts: Callable[[Engine], bool]
    translator: Translator


class Ended(NamedTuple):
    """The stream was complete but for these last bytes (free of transfer coding)."""

    body: bytes


class NotResumed(NamedTuple):
    """It cannot go on. `reason` is a word for the metric."""

    reason: str


class Recording(Protocol):
    """What a stream said so far.

    The exchange forwards whole events only: of the bytes heard, the client has seen every whole event and nothing of a last
    incomplete one. After a seam nothing more is heard: the continuation's translator sees it all, and knows what it gave out.
    """

    def heard(self, data: bytes) -> bool:
        """Body bytes of the first engine as they came, transfer coding included. Called for every read: must be cheap.

        True: the engine says in them that it gave up. They were not recorded and must not be delivered; it counts as dead.
        """

    async def resume(self, engine: Engine, ask: Ask, *, leg: int | None = None) -> Continuation | Ended | NotResumed:
        """`engine` died. May be called again when the engine of a continuation dies.

        `leg` is given where nobody died, but a leg has ended and `engine` will go on: with so many tokens, 0 for all.
        """

    def close(self) -> None:
        """The exchange is over; let go of the buffer."""


class Handling(NamedTuple):
    """What one attempt does. None: as it is.

    `reason` is a word for the metric: why a stream is not recorded. `let_go`: to be called when the attempt is over, for what the
    translator keeps.
    """

    target: bytes | None = None
    body: bytes | None = None
    recording: Recording | None = None
    translator: Translator | None = None
    reason: str = "not_recorded"
    let_go: Callable[[], None] | None = None

    def close(self) -> None:
        """The attempt, or the whole exchange, is over."""
        if self.recording is not None:
            self.recording.close()
        if self.let_go is not None:
            self.let_go()

    @property
    def plain(self) -> bool:
        """Whether bytes pass in both directions as they are."""
        return self.target is None and self.body is None and self.recording is None and self.translator is None


PLAIN = Handling()
SWITCHED_OFF = Handling(reason="switched_off")


class ResumeBook(Protocol):
    """Decides what is recorded or assembled."""

    def open(self, features: Features, engine: Engine) -> Handling:
        """For one attempt of `features` at `engine`."""

    def open_leg(self, features: Features, engine: Engine, *, tokens: int) -> Handling:
        """The same, where `engine` is to make the first `tokens` only. Its translator tells their end by LegEnded."""


class NoBook:
    """Records nothing."""

    def open(self, features: Features, engine: Engine) -> Handling:
        """Every request as it is."""
        return PLAIN

    def open_leg(self, features: Features, engine: Engine, *, tokens: int) -> Handling:
        """Every request as it is."""
        return PLAIN
