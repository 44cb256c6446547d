"""Which requests can be resumed, read from their JSON body, and what is asked of their engine so that they can be.

A request is eligible only when every field of it is known here: an option of an engine that appears next year may depend on what
was generated before, and then a continuation would not be the same text. What is refused depends on the output so far
(penalties, structured output), on chance (sampling), or on a reading of the output that a continuation cannot repeat (parsers).
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec

from mica_router.core.resume.refusals import Refused

Endpoint = Literal["chat", "completions"]
ENDPOINTS: Final[dict[str, Endpoint]] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
DEFAULT_COMPLETION_TOKENS: Final = 16

_ABSENT = msgspec.UNSET
_Raw = msgspec.Raw | msgspec.UnsetType


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`stream_options` as vLLM and OpenAI know them."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Usual(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The fields of which nearly every request is made. What may stand in the way is in `_usual_refusal`
    and, of prompts, in `_content_refusal`.
    """

    # In the order in which most clients write them: the decoder looks for a name where it found the last one, and on from there.
    model: str
    messages: _Raw = _ABSENT
    prompt: _Raw = _ABSENT
    temperature: float | None = None
    max_tokens: int | msgspec.UnsetType | None = _ABSENT
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    bad_words: list[str] | None = None
    return_token_ids: bool | msgspec.UnsetType | None = _ABSENT

    # Without effect on a continuation at temperature 0.
    top_p: float | None = None
    seed: int | None = None
    user: object = None


class Fields(Usual, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Every field that is understood. Those that may be passed on to a continuation are in `CARRIED`."""

    best_of: int | None = None
    prompt_embeds: _Raw = _ABSENT
    mm_processor_kwargs: _Raw = _ABSENT
    media_io_kwargs: _Raw = _ABSENT

    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: _Raw = _ABSENT
    allowed_token_ids: _Raw = _ABSENT
    skip_special_tokens: _Raw = _ABSENT
    spaces_between_special_tokens: _Raw = _ABSENT
    priority: _Raw = _ABSENT
    cache_salt: _Raw = _ABSENT

    response_format: dict[str, object] | None = None
    structured_outputs: object = None
    guided_json: object = None
    guided_regex: object = None
    guided_choice: object = None
    guided_grammar: object = None
    grammar: object = None
    json_schema: object = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: object = None
    tools: list[object] | None = None
    tool_choice: object = None
    functions: object = None
    function_call: object = None
    parallel_tool_calls: object = None
    thinking_token_budget: object = None
    include_reasoning: bool | None = None
    echo: bool | None = None
    suffix: str | None = None
    use_beam_search: bool | None = None
    kv_transfer_params: object = None
    ec_transfer_params: object = None
    repetition_detection: object = None
    watermarking: bool | None = None
    vllm_xargs: object = None

    # Without effect on a continuation: nothing at temperature 0, or used up when the prompt was made.
    top_k: int | None = None
    min_p: float | None = None
    metadata: object = None
    store: object = None
    service_tier: object = None
    safety_identifier: object = None
    prompt_cache_key: object = None
    reasoning_effort: object = None
    length_penalty: object = None
    return_tokens_as_token_ids: object = None
    truncate_prompt_tokens: object = None
    truncation_side: object = None
    add_special_tokens: object = None
    add_generation_prompt: object = None
    continue_final_message: object = None
    chat_template: object = None
    chat_template_kwargs: object = None
    documents: object = None
    stream_interval: object = None
    request_id: object = None
    session_id: object = None
    cache_prompt: object = None


CARRIED: Final = (
    *("model", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "bad_words", "repetition_penalty"),
    *("logit_bias", "allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens", "priority", "cache_salt"),
)
_USUAL: Final = msgspec.json.Decoder(Usual)
_DECODER: Final = msgspec.json.Decoder(Fields)


class _Part(msgspec.Struct, frozen=True):
    # Engines take parts that do not say their type, images among them.
    type: str = ""


class _Message(msgspec.Struct, frozen=True):
    content: str | list[_Part | str] | None = None


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_PROMPT: Final = msgspec.json.Decoder(str | list[str | int | list[int]])
_T = TypeVar("_T")


class Resumable(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose stream can go on elsewhere. `max_tokens` is None where the context is the bound."""

    endpoint: Endpoint
    fields: Usual
    max_tokens: int | None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        stop = self.fields.stop
        return (stop,) if isinstance(stop, str) else tuple(stop or ())

    @property
    def held_back(self) -> int:
        """Characters that the engine may keep until it knows that no stop string begins there: longest stop string less one."""
        return max((len(stop) for stop in self.stops), default=1) - 1

    @property
    def include_usage(self) -> bool:
        """Whether the client gets a last event with the counts."""
        options = self.fields.stream_options
        return bool(options and options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether it gets them in every event."""
        options = self.fields.stream_options
        return bool(options and options.include_usage and options.continuous_usage_stats)


def judge(path: str, body: bytes) -> Resumable | Refused:
    """Whether the stream that `body` asks for can be resumed."""
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        return Refused.NOT_TEXT
    try:
        fields = _read(body)
        refused = _usual_refusal(fields)
        if refused is None and isinstance(fields, Fields):
            refused = _refusal(fields)
        if refused is None:
            refused = _content_refusal(endpoint, fields)
    except msgspec.ValidationError as error:
        return Refused.UNKNOWN_FIELD if "unknown field" in str(error) else Refused.MALFORMED
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refused.MALFORMED
    if refused is not None:
        return refused
    return Resumable(endpoint=endpoint, fields=fields, max_tokens=_max_tokens(endpoint, fields))


def _read(body: bytes) -> Usual:
    """`Fields` where there are any but the usual ones. Raises msgspec's errors."""
    try:
        return _USUAL.decode(body)
    except msgspec.ValidationError:
        return _DECODER.decode(body)


def _usual_refusal(fields: Usual) -> Refused | None:
    """The first reason in the usual options. Comparisons alone, in order: every stream is asked."""
    if not fields.stream:
        return Refused.NOT_STREAMED
    if fields.temperature != 0:
        return Refused.SAMPLED
    return None if fields.n is None or fields.n == 1 else Refused.SEVERAL_CHOICES


def _refusal(fields: Fields) -> Refused | None:
    """The first reason in other options."""
    if fields.best_of not in (None, 1):
        return Refused.SEVERAL_CHOICES
    if fields.presence_penalty or fields.frequency_penalty:
        return Refused.PENALTY
    if fields.use_beam_search:
        return Refused.BEAM_SEARCH
    if fields.echo:
        return Refused.ECHO
    if fields.suffix:
        return Refused.NOT_TEXT
    return _refusal_of_output(fields) or _refusal_of_embeddings(fields)


def _refusal_of_output(fields: Fields) -> Refused | None:
    """The first reason in what is asked of the output's form, or kept by the engine."""
    if _structured(fields):
        return Refused.STRUCTURED_OUTPUT
    if _wants_logprobs(fields):
        return Refused.LOGPROBS
    if fields.tools or fields.functions or fields.function_call or fields.tool_choice not in (None, "none", "auto"):
        return Refused.TOOLS
    if fields.thinking_token_budget is not None or fields.include_reasoning is False:
        return Refused.REASONING
    return Refused.ENGINE_STATE if _keeps_state(fields) else None


def _structured(asked: Fields) -> bool:
    if not asked.structured_outputs is asked.grammar is asked.json_schema is None:
        return True
    if not asked.guided_json is asked.guided_regex is asked.guided_choice is asked.guided_grammar is None:
        return True
    return asked.response_format is not None and asked.response_format.get("type") != "text"


def _wants_logprobs(asked: Fields) -> bool:
    """On chat `logprobs` is a boolean; on completions it is a count, and 0 asks for the chosen token's."""
    if asked.logprobs is not None and asked.logprobs is not False:
        return True
    return bool(asked.top_logprobs) or not asked.prompt_logprobs is asked.logprob_token_ids is None


def _keeps_state(asked: Fields) -> bool:
    extras = asked.kv_transfer_params is asked.ec_transfer_params is asked.repetition_detection is asked.vllm_xargs is None
    return not extras or bool(asked.watermarking)


def _refusal_of_embeddings(fields: Fields) -> Refused | None:
    if not fields.prompt_embeds is fields.mm_processor_kwargs is fields.media_io_kwargs is _ABSENT:
        embedded = (fields.prompt_embeds, fields.mm_processor_kwargs, fields.media_io_kwargs)
        if any(isinstance(value, msgspec.Raw) and bytes(value) != b"null" for value in embedded):
            return Refused.NOT_TEXT
    return None


def _content_refusal(endpoint: Endpoint, fields: Usual) -> Refused | None:
    """Whether the prompt is one text. Raises msgspec's errors."""
    content = fields.messages if endpoint == "chat" else fields.prompt
    if not isinstance(content, msgspec.Raw):
        return Refused.MALFORMED
    if endpoint == "chat":
        return None if _only_text(bytes(content)) else Refused.NOT_TEXT
    prompt = _PROMPT.decode(content)
    if isinstance(prompt, str) or all(isinstance(item, int) for item in prompt):
        return None
    return None if len(prompt) == 1 else Refused.SEVERAL_CHOICES


def _only_text(messages: bytes) -> bool:
    if messages.find(b"[", 1) < 0:
        return True  # no message holds a list of parts, however its names are spelt
    lists = (message.content for message in _MESSAGES.decode(messages) if isinstance(message.content, list))
    return all(isinstance(part, str) or part.type == "text" for content in lists for part in content)


def _max_tokens(endpoint: Endpoint, fields: Usual) -> int | None:
    if endpoint == "chat" and fields.max_completion_tokens is not None:
        return fields.max_completion_tokens
    if fields.max_tokens is msgspec.UNSET:
        return DEFAULT_COMPLETION_TOKENS if endpoint == "completions" else None
    return fields.max_tokens


def ask_for_ids(request: Resumable, body: bytes) -> bytes:
    """The same request, asking for token ids as well. Nothing else in it changes, so the client's events stay what they are.

    Ids add a few bytes to an event where vLLM otherwise writes null; usage is not asked for, because an event without choices
    would surprise a client that did not ask for one.
    """
    if request.fields.return_token_ids:
        return body
    if request.fields.return_token_ids is _ABSENT:
        if body[:1] == b"{":
            return b'{"return_token_ids":true,' + body[1:]
        start = body.index(b"{") + 1
        return body[:start] + b'"return_token_ids":true,' + body[start:]
    content: dict[str, msgspec.Raw] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    content["return_token_ids"] = msgspec.Raw(b"true")
    return msgspec.json.encode(content)
