"""The client's side of one exchange: which head it gets, how the engine's body becomes its own, and how a stream ends badly.

Not here: engines and retries (`relay.exchange`), and the client's connection (`relay.connection`).
"""

from __future__ import annotations

from typing import Final, Protocol

from mica_router.core.continuation import Translator
from mica_router.core.errors import ApiError, render_event
from mica_router.core.events import END_OF_CHUNKS, WholeEvents, chunk
from mica_router.core.flows import DONE_EVENT, UNCHANGED, Flow, LateAnswer, Translated
from mica_router.core.headers import Header, render_own_head, render_response_head
from mica_router.core.request import Request
from mica_router.core.response import ResponseHead, ResponseReader
from mica_router.hot import Outlet

EVENT_HEADERS: Final[list[Header]] = [(b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-cache")]
HEARTBEAT: Final = b": waiting for an engine\n\n"


class ResponseSink(Protocol):
    """The client's connection, as an exchange sees it."""

    def write(self, data: bytes) -> None:
        """Response bytes, in order."""

    def outlet(self) -> Outlet:
        """What `write` comes to for this response."""

    def exchange_answered(self) -> None:
        """The engine answers: the request will not be sent again and is no longer kept."""

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The response is complete."""

    def exchange_failed(self, error: ApiError) -> None:
        """Nothing was written; answer with this."""

    def exchange_broken(self) -> None:
        """Part of a response was written and the rest will not come."""


class Delivery:
    """`opened`: the client has the head of an answer. `events`: its body is a stream of events, which more events may follow.

    `named_errors`: errors in it have to be events of that name.
    """

    __slots__ = ("_client", "_flow", "_frames", "_head", "_named", "events", "keep_alive", "opened")

    def __init__(self, client: ResponseSink, request: Request, *, keep_alive: bool, named_errors: bool = False) -> None:
        self._client = client
        self._named = named_errors
        self._head = b""
        self._frames = not request.http10
        self._flow: Flow = UNCHANGED
        self.keep_alive = keep_alive and request.keep_alive and not request.http10
        self.opened = False
        self.events = False

    def heartbeat(self) -> None:
        """Tell a client that waits for a stream that it still does. The first time, this begins the answer."""
        if not self.opened:
            self.opened = self.events = True
            head = render_own_head(200, EVENT_HEADERS, length=None, chunked=self._frames, close=not self.keep_alive)
            self._client.write(head)
        self._client.write(self._framed(HEARTBEAT))

    def accept(self, head: ResponseHead, translator: Translator | None) -> None:
        """The engine's head is the one. A translator is for answers with status 200."""
        if head.status != 200:
            translator = None
        if self.opened:
            self._flow = self._within(head, translator)
        elif translator is not None:
            self._open_translated(head, translator)
        else:
            self._open(head)

    def _within(self, head: ResponseHead, translator: Translator | None) -> Flow:
        """The client has the head of a stream already."""
        if translator is not None:
            return Translated(translator, chunked=head.chunked, opened=True, frames=self._frames, close=False)
        if head.events and head.status == 200:
            return WholeEvents(chunked=head.chunked, frames=self._frames)
        return LateAnswer(chunked=head.chunked, frames=self._frames, named=self._named)

    def _open_translated(self, head: ResponseHead, translator: Translator) -> None:
        flow = Translated(translator, chunked=head.chunked, opened=False, frames=self._frames, close=not self.keep_alive)
        self._flow = flow
        self.events = head.events and self._frames
        self._begin(flow.open(translator.head(head.status, head.headers)))

    def _open(self, head: ResponseHead) -> None:
        reframed = head.until_eof and head.events and self._frames
        if head.until_eof and not reframed:
            self.keep_alive = False
        self.events = head.events and (head.chunked or head.until_eof)
        if self.events:
            self._flow = WholeEvents(chunked=head.chunked, frames=self._frames)
        self._begin(
            head.passed_on
            if self.keep_alive and not reframed
            else render_response_head(
                status_line=head.status_line, headers=head.headers, close=not self.keep_alive, chunked=reframed
            )
        )

    def continue_with(self, head: ResponseHead, translator: Translator) -> None:
        """Another engine goes on with the stream, where the client has seen whole events."""
        self._flow = Translated(translator, chunked=head.chunked, opened=True, frames=self._frames, close=False)

    def feed(self, data: bytes, reader: ResponseReader) -> None:
        """Body bytes of the engine; none with a head that came alone. Raises TranslationFailed."""
        self._write(self._flow.feed(data, reader) if data else b"")

    def finish(self, reader: ResponseReader) -> None:
        """The engine's answer is complete. Raises TranslationFailed."""
        self._write(self._flow.finish(reader))

    def end_with(self, payload: bytes) -> None:
        """Last events of our own, and the end."""
        self._write(self._framed(payload) + (END_OF_CHUNKS if self._frames else b""))

    @property
    def passing(self) -> bool:
        """Whether whole chunks of whole events go to the client as they come."""
        flow = self._flow
        return isinstance(flow, WholeEvents) and flow.passing

    def can_tell(self) -> bool:
        """Whether an error event may follow what the client has."""
        flow = self._flow
        if isinstance(flow, Translated) and not flow.opened:
            return False
        return self.events and not (isinstance(flow, WholeEvents) and flow.torn)

    def tell(self, error: ApiError) -> None:
        """End a stream with an error event, as the endpoint's clients understand it."""
        self.end_with(render_event(error, named=self._named) + DONE_EVENT)

    def _framed(self, payload: bytes) -> bytes:
        return chunk(payload) if self._frames else payload

    def _begin(self, head: bytes) -> None:
        """Keep the head for the body that comes with it: one write costs half of two. `feed` follows in any case."""
        self._head = head
        self.opened = bool(head)

    def _write(self, out: bytes) -> None:
        if self._head:
            out, self._head = self._head + out, b""
        if out:
            self.opened = True
            self._client.write(out)
