"""Whole answers that are streamed on their way here, for engines that go on generating when the client of a whole answer leaves.

llama.cpp notices a client that leaves only while it streams. So a request for a whole answer asks it for a stream, and its events
are put together into the answer that it would have given. Requests whose answers hold more than text (tools, several choices, or
an option that is not known here) are not converted: their cancel does not reach the engine, but their answer is the engine's own.
"""

from __future__ import annotations

from io import StringIO
from typing import Any, Final

import msgspec

from mica_router.core.continuation import Handling, TranslatedHead, TranslationFailed
from mica_router.core.features import Features
from mica_router.core.headers import Header
from mica_router.core.resume.recording import Kept, Shelf
from mica_router.core.resume.request import ENDPOINTS, Endpoint
from mica_router.core.resume.transcript import DONE, bounded, split_events

# Beside these, a request may hold what only steers sampling. Everything else may change the shape of the answer.
_PLAIN: Final = frozenset(
    {
        *("model", "messages", "prompt", "stream", "max_tokens", "max_completion_tokens", "n_predict", "stop", "user", "seed"),
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "repeat_penalty"),
        *("repeat_last_n", "logit_bias", "ignore_eos", "cache_prompt", "id_slot", "samplers", "mirostat", "mirostat_tau"),
        *("mirostat_eta", "dynatemp_range", "dynatemp_exponent", "xtc_probability", "xtc_threshold", "min_keep", "n_keep"),
        *("chat_template_kwargs", "grammar", "json_schema", "response_format", "metadata", "store", "logprobs", "top_logprobs"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "n"),
    }
)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NOT_ASKED: Final = (b"null", b"false")
_WITHOUT_BODY: Final = frozenset({b"content-type", b"transfer-encoding", b"content-length", b"x-accel-buffering"})
_LONGEST_ANSWER: Final = 64 * 1024 * 1024
_PARSED: Final = 4  # how much larger JSON is as Python's objects


def assembles(features: Features) -> bool:
    """Whether this request for a whole answer can be asked for as a stream."""
    fields = _fields(features.body)
    if fields is None or not fields.keys() <= _PLAIN:
        return False
    if bytes(fields.get("n", msgspec.Raw(b"1"))) not in (b"1", b"null"):
        return False
    prompt = bytes(fields.get("prompt", msgspec.Raw(b'""')))
    return bytes(fields.get("stream", msgspec.Raw(b"false"))) in _NOT_ASKED and not _several(prompt)


def _fields(body: bytes) -> dict[str, msgspec.Raw] | None:
    try:
        return _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _several(prompt: bytes) -> bool:
    """A list of prompts gets a list of answers; a list of token ids is one prompt."""
    return prompt.startswith(b"[") and (b'"' in prompt or b"[" in prompt[1:])


def assembling(features: Features, shelf: Shelf) -> Handling:
    """Ask for a stream, with its counts, and put the answer together."""
    fields = _fields(features.body) or {}
    fields["stream"] = msgspec.Raw(b"true")
    fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    kept = Kept(shelf, limit=_LONGEST_ANSWER)
    return Handling(body=msgspec.json.encode(fields), translator=Assembled(ENDPOINTS[features.path], kept), let_go=kept.close)


class Assembled:
    """Translator from a stream to a whole answer of llama.cpp. What it keeps is counted in `kept`."""

    def __init__(self, endpoint: Endpoint, kept: Kept) -> None:
        self._chat = endpoint == "chat"
        self._kept = kept
        self._headers: list[Header] = []
        self._rest = b""
        self._text = StringIO()
        self._reasoning = StringIO()
        self._logprobs: list[Any] = []
        self._last: dict[str, Any] = {}
        self._finish: str | None = None
        self._head: TranslatedHead | None = None

    def head(self, status: int, headers: list[Header]) -> TranslatedHead | None:
        """Not before the answer is whole, because its length belongs there."""
        self._headers = [header for header in headers if header[0].lower() not in _WITHOUT_BODY]
        return None

    def late_head(self) -> TranslatedHead | None:
        """The head, once the answer is whole."""
        return self._head

    def feed(self, body: bytes) -> bytes:
        """Take events in; nothing goes out yet. Raises TranslationFailed."""
        whole, rest = split_events(self._rest + body)
        self._rest = bounded(rest)
        for data in whole:
            if data != DONE:
                self._take(data)
        return b""

    def finish(self) -> bytes:
        """The whole answer. Raises TranslationFailed when the stream ended before the answer did."""
        if "error" in self._last:
            return self._whole(_status(self._last["error"]), {"error": self._last["error"]})
        if self._finish is None:
            raise TranslationFailed("the stream ended without a finish reason")
        return self._whole(200, self._answer())

    def _take(self, data: bytes) -> None:
        try:
            event = msgspec.json.decode(data, type=dict[str, Any])
            choices = event.pop("choices", [])
            self._last |= event
            if choices:
                self._take_choice(choices[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError, AttributeError) as error:
            raise TranslationFailed(f"an event cannot be read: {error}") from error

    def _take_choice(self, choice: dict[str, Any]) -> None:
        said = choice.get("delta", {}) if self._chat else choice
        text = said.get("content" if self._chat else "text") or ""
        reasoning = said.get("reasoning_content") or ""
        # StringIO takes nothing but text; Python keeps most of it in one or two bytes a character.
        self._kept.add(2 * (self._text.write(text) + self._reasoning.write(reasoning)))
        logprobs = choice.get("logprobs")
        if logprobs:
            self._kept.add(_PARSED * len(msgspec.json.encode(logprobs)))
            self._logprobs.extend(logprobs["content"])
        self._finish = choice.get("finish_reason") or self._finish

    def _answer(self) -> dict[str, Any]:
        logprobs = {"content": self._logprobs} if self._logprobs else None
        text, reasoning = self._text.getvalue(), self._reasoning.getvalue()
        choice: dict[str, Any]
        if self._chat:
            message = {"role": "assistant", "content": text} | ({"reasoning_content": reasoning} if reasoning else {})
            choice = {"finish_reason": self._finish, "index": 0, "message": message}
            choice |= {"logprobs": logprobs} if logprobs else {}
        else:
            choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": self._finish}
        return {"choices": [choice]} | self._last | {"object": "chat.completion" if self._chat else "text_completion"}

    def _whole(self, status: int, answer: dict[str, Any]) -> bytes:
        body = msgspec.json.encode(answer)
        self._head = TranslatedHead(status, [(b"Content-Type", b"application/json; charset=utf-8"), *self._headers], len(body))
        return body


def _status(error: Any) -> int:
    """llama.cpp names the status in the error."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500
