"""Why a broken stream is not resumed: the values of the metric's `reason`, and nothing else."""

from __future__ import annotations

from enum import StrEnum


class Refused(StrEnum):
    """First those that the request itself decides, then those that only a death brings up."""

    NOT_STREAMED = "not_streamed"
    SAMPLED = "sampled"
    SEVERAL_CHOICES = "several_choices"
    NOT_TEXT = "not_text"
    PENALTY = "penalty"
    STRUCTURED_OUTPUT = "structured_output"
    LOGPROBS = "logprobs"
    TOOLS = "tools"
    REASONING = "reasoning"
    ECHO = "echo"
    BEAM_SEARCH = "beam_search"
    ENGINE_STATE = "engine_state"
    UNKNOWN_FIELD = "unknown_field"
    MALFORMED = "malformed"
    ENGINE_KIND = "engine_kind"

    BUFFER_FULL = "buffer_full"
    UNREADABLE = "unreadable"
    NO_TOKEN_IDS = "no_token_ids"
    NO_TOKENIZER = "no_tokenizer"
    DIVERGED = "diverged"
    NO_ENGINE = "no_engine"
    TOO_OFTEN = "too_often"
