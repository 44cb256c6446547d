"""One answer, token by token: what vLLM's engine core and detokenizer do between them, over the toy model. No I/O.

Rules kept from vLLM: stop strings are looked for in generated text only and not before `min_tokens`; the last
`longest stop - 1` characters are held back; the token that ends an answer (EOS, a stop token) shows in the ids and not in the
text; a stop string wins over the length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .toy_model import EOS, DetokenizerStream, Sampling, ToyModel, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A request, read. `max_tokens` is at least 1 and fits the context."""

    max_tokens: int
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special: bool = True
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token: its id, the text that is given out with it, and the end if it is the last."""

    token: int
    text: str
    finish_reason: str | None = None
    stop_reason: str | int | None = None


def generate(model: ToyModel, prompt: Sequence[int], options: Options) -> Iterator[Step]:
    """The whole answer to `prompt`."""
    output: list[int] = []
    stream = DetokenizerStream(prompt, skip_special=options.skip_special)
    held = max((len(stop) - 1 for stop in options.stop), default=0) if not options.include_stop else 0
    text, given, checked_from = "", 0, 0
    while True:
        early = len(output) < options.min_tokens
        banned = {EOS, *options.stop_token_ids} if early else ({EOS} if options.ignore_eos else ())
        token = model.next_id(prompt, output, options.sampling, banned=banned)
        output.append(token)
        finish, reason = _end_of_core(token, len(output), options)
        stops_here = finish == "stop" and not options.include_stop
        before = len(text)
        text += "" if stops_here else stream.step(token)
        if len(output) <= options.min_tokens:
            checked_from = len(text)
        else:
            match = _stop_string(text, max(checked_from, before), options)
            if match is not None:
                finish, reason, text = "stop", match[0], match[1]
        end = len(text) if finish else max(given, len(text) - held)
        yield Step(token, text[given:end], finish, reason)
        given = end
        if finish:
            return


def _end_of_core(token: int, generated: int, options: Options) -> tuple[str | None, int | None]:
    if token == EOS and not options.ignore_eos:
        return "stop", None
    if token in options.stop_token_ids:
        return "stop", token
    return ("length", None) if generated >= options.max_tokens else (None, None)


def _stop_string(text: str, new_from: int, options: Options) -> tuple[str, str] | None:
    """The stop string that ends first among the new characters, and the text that remains."""
    best: tuple[int, str] | None = None
    for stop in options.stop if len(text) > new_from else ():
        at = text.find(stop, max(0, new_from + 1 - len(stop)))
        if at >= 0 and (best is None or at + len(stop) < best[0]):
            best = at + len(stop), stop
    if best is None:
        return None
    end, stop = best
    return stop, text[: end if options.include_stop else end - len(stop)]


def read_options(request: Mapping[str, Any], *, max_tokens: int, nonce: str, variant: int = 0) -> Options:
    """Options of an OpenAI request, with what changes the next token folded into `Sampling`."""
    stop = request.get("stop") or ()
    return Options(
        max_tokens=max_tokens,
        min_tokens=request.get("min_tokens") or 0,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=frozenset(request.get("stop_token_ids") or ()),
        ignore_eos=bool(request.get("ignore_eos")),
        include_stop=bool(request.get("include_stop_str_in_output")),
        skip_special=bool(request.get("skip_special_tokens", True)),
        sampling=_sampling(request, nonce=nonce, variant=variant),
    )


def _sampling(request: Mapping[str, Any], *, nonce: str, variant: int) -> Sampling:
    temperature = request.get("temperature")
    counted = {key: request[key] for key in ("presence_penalty", "frequency_penalty", "response_format") if request.get(key)}
    constant = {key: request[key] for key in ("repetition_penalty", "logit_bias") if request.get(key)}
    allowed = request.get("allowed_token_ids")
    return Sampling(
        nonce=nonce if temperature is None or temperature > 0 else "",
        depends_on_output=repr(sorted(counted.items())) if counted else "",
        constants=repr(sorted(constant.items())) + repr(allowed),
        bad_words=tuple(_bad_words(request.get("bad_words") or ())),
        variant=variant,
    )


def _bad_words(words: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """vLLM bans a word as it is, and with a space before it when that has as many tokens and begins with another."""
    for word in words:
        plain, spaced = tuple(encode(word.lstrip())), tuple(encode(" " + word.lstrip()))
        yield plain
        if spaced[0] != plain[0] and len(spaced) == len(plain):
            yield spaced
