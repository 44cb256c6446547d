"""What is asked of a living engine between a death and the continuation: questions and answers as JSON, over a port.

An engine that does not answer, or answers something else, is treated as one that does not know.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from mica_router.core.continuation import Ask

_T = TypeVar("_T")


class _Text(msgspec.Struct, frozen=True):
    prompt: str


class _VllmTokens(msgspec.Struct, frozen=True):
    tokens: list[int]
    max_model_len: int = 0


_OK: Final = 200


async def _asked(ask: Ask, path: str, question: object, kind: type[_T]) -> _T | None:
    try:
        reply = await ask(path, msgspec.json.encode(question))
    except (OSError, TimeoutError):
        return None
    if reply.status != _OK:
        return None
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def text_of(ask: Ask, *, model: str, ids: list[int]) -> str | None:
    """Text of token ids, as vLLM's `/detokenize` tells it."""
    answer = await _asked(ask, "/detokenize", {"model": model, "tokens": ids}, _Text)
    return None if answer is None else answer.prompt


async def context_length(ask: Ask, *, model: str) -> int | None:
    """How many tokens a vLLM engine's context has."""
    answer = await _asked(ask, "/tokenize", {"model": model, "prompt": "a", "add_special_tokens": False}, _VllmTokens)
    return answer.max_model_len or None if answer is not None else None


async def spellings(ask: Ask, *, model: str, words: list[str]) -> list[list[int]] | None:
    """Token ids of words, each as it is and with a space before it, which is how vLLM forbids them."""
    found = []
    for word in words:
        for spelt in (word.lstrip(), " " + word.lstrip()):
            question = {"model": model, "prompt": spelt, "add_special_tokens": False}
            answer = await _asked(ask, "/tokenize", question, _VllmTokens)
            if answer is None:
                return None
            found.append(answer.tokens)
    return found


class _Prompt(msgspec.Struct, frozen=True):
    prompt: str


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


async def rendered_prompt(ask: Ask, *, body: dict[str, object]) -> str | None:
    """The text that llama.cpp makes of a chat."""
    answer = await _asked(ask, "/apply-template", body, _Prompt)
    return None if answer is None else answer.prompt


async def tokens_of(ask: Ask, text: str, *, special: bool) -> list[int] | None:
    """llama.cpp's tokens of a text. `special`: it is a prompt, in which special tokens are meant as such."""
    answer = await _asked(ask, "/tokenize", {"content": text, "add_special": special, "parse_special": special}, _Tokens)
    return None if answer is None else answer.tokens
