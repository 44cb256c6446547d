"""What a stream said until its engine died, read from its bytes. Only a death makes this necessary, so only then it is paid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from mica_router.core.continuation import TooLong
from mica_router.core.events import LONGEST_EVENT
from mica_router.core.resume.refusals import Refused

DONE: Final = b"[DONE]"
# Digits alone: Python would take signs as well, and a chunk of less than nothing is followed by itself.
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?$", re.DOTALL)
# How vLLM ends an answer that it could not finish: at its shutdown, and when its core failed.
GAVE_UP: Final = frozenset({"abort", "error"})


class Delta(msgspec.Struct, frozen=True):
    """Of a chat event: the text. Everything that is no plain text shows as `other`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[object] | None = None
    function_call: object = None

    @property
    def plain(self) -> bool:
        """Whether this is text and nothing else."""
        return not (self.reasoning or self.reasoning_content or self.tool_calls or self.function_call)


class Choice(msgspec.Struct, frozen=True):
    """One choice of an event, of either endpoint."""

    index: int = 0
    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None

    @property
    def said(self) -> str:
        """The event's text."""
        if self.delta is not None:
            return self.delta.content or ""
        return self.text or ""


class Usage(msgspec.Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class Event(msgspec.Struct, frozen=True):
    """One event. An `error` has nothing else."""

    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[Choice] = []
    usage: Usage | None = None
    system_fingerprint: str | None = None
    prompt_token_ids: list[int] | None = None
    error: object = None


_EVENT: Final = msgspec.json.Decoder(Event)


class Unreadable(Exception):
    """These bytes are no stream of OpenAI events."""


def read_event(data: bytes) -> Event:
    """One event's JSON. Raises Unreadable."""
    try:
        return _EVENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def bounded(rest: bytes) -> bytes:
    """Bytes of an event that is not whole yet. Raises TooLong."""
    if len(rest) > LONGEST_EVENT:
        raise TooLong(LONGEST_EVENT)
    return rest


def split_events(payload: bytes) -> tuple[list[bytes], bytes]:
    """Data of whole events, and the bytes of one that is not whole yet. Comments and other fields are left out."""
    *whole, rest = payload.replace(b"\r\n", b"\n").split(b"\n\n")
    return [data for block in whole if (data := _data_of(block))], rest


def _data_of(block: bytes) -> bytes:
    lines = (line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(lines)


def dechunk(raw: bytes) -> bytes:
    """Payload of chunks as far as it came, the last chunk perhaps in part. Raises Unreadable where no chunk begins.

    Bytes without chunks (of an answer that only the end of its connection ends) are payload already.
    """
    if raw.startswith((b"data:", b"event:", b":", b"\n", b"\r\n")):
        return raw
    payload, at = [], 0
    while at < len(raw):
        end = raw.find(b"\r\n", at)
        if end < 0:
            break
        found = _CHUNK_SIZE.match(raw, at, end)
        if found is None:
            raise Unreadable("no chunk begins where one should")
        size = int(found[1], 16)
        payload.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
        if size == 0:
            break
    return b"".join(payload)


class Boundary(NamedTuple):
    """After an event: `tokens` and `characters` that were out by then. `clean`: it had text and a single token, so the text
    of the tokens up to here is whole (engines give no text out while a character is not whole)."""

    tokens: int
    characters: int
    clean: bool


class Identity(NamedTuple):
    """What makes events those of one answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None


class Transcript(NamedTuple):
    """A stream until its end or death.

    `identified`: every text came with the ids of its tokens. `boundaries`: after every event that had text. `finished`: the
    finish reason, once out; `counted`: so are the token counts; `done`: and `[DONE]`.
    """

    identity: Identity
    prompt_ids: list[int] | None
    identified: bool
    ids: list[int]
    text: str
    boundaries: list[Boundary]
    finished: str | None
    counted: bool
    done: bool


def read_transcript(payload: bytes) -> Transcript | Refused | None:
    """The transcript of an answer's whole events. None: not one event came."""
    whole, _ = split_events(payload)
    try:
        events = list(_until_trouble(whole))
    except Unreadable:
        return Refused.UNREADABLE
    if not events:
        return None
    choices = [choice for event in events for choice in event.choices]
    if any(choice.delta is not None and not choice.delta.plain for choice in choices):
        return Refused.REASONING
    if any(choice.index for choice in choices):
        return Refused.SEVERAL_CHOICES
    return _assemble(events, choices, done=len(events) < len(whole) and whole[len(events)] == DONE)


def _until_trouble(whole: list[bytes]) -> Iterator[Event]:
    """Events up to the end mark, or to the one in which the engine says that it gave up: what follows means nothing."""
    for data in whole:
        if data == DONE:
            return
        event = read_event(data)
        if event.error is not None or any(choice.finish_reason in GAVE_UP for choice in event.choices):
            return
        yield event


def _assemble(events: list[Event], choices: list[Choice], *, done: bool) -> Transcript:
    ids: list[int] = []
    parts: list[str] = []
    boundaries: list[Boundary] = []
    characters = 0
    for choice in choices:
        ids.extend(choice.token_ids or ())
        if choice.said:
            parts.append(choice.said)
            characters += len(choice.said)
            boundaries.append(Boundary(len(ids), characters, clean=len(choice.token_ids or ()) == 1))
    first = events[0]
    return Transcript(
        identity=Identity(first.id, first.created, first.model, first.system_fingerprint),
        prompt_ids=next(_prompt_ids(events, choices), None),
        identified=all(choice.token_ids is not None for choice in choices if choice.said),
        ids=ids,
        text="".join(parts),
        boundaries=boundaries,
        finished=next((choice.finish_reason for choice in choices if choice.finish_reason), None),
        counted=any(event.usage is not None and not event.choices for event in events),
        done=done,
    )


def _prompt_ids(events: list[Event], choices: list[Choice]) -> Iterator[list[int]]:
    yield from (event.prompt_token_ids for event in events if event.prompt_token_ids is not None)
    yield from (choice.prompt_token_ids for choice in choices if choice.prompt_token_ids is not None)
