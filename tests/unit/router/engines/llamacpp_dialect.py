"""llama.cpp's OpenAI server as clients see it: no token ids, its own field order, `timings`, keep-alive that ends unannounced.

Kept from the real one: incomplete characters are held back and invalid bytes become U+FFFD; text that may become a stop string is
held back; a request that is not streamed runs to its end even when its client left; a token-array prompt on /v1/completions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from .generation import read_options
from .toy_engine import Answer, Dialect, EngineState, ToyEngine, compact, error_body, render
from .toy_model import EOS, VOCABULARY, decode, encode, is_special, render_chat

CREATED: Final = 1_790_000_000
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nX-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def llamacpp_engine(**settings: Any) -> ToyEngine:
    """An engine that is not started yet. Settings are those of `EngineState`; `merge` and `version` mean nothing here."""
    return ToyEngine(LlamacppDialect, **settings)


class LlamacppDialect(Dialect):
    """Routes and shapes."""

    def get(self, path: str) -> bytes:
        if path == "/health":
            return render(200, b'{"status":"ok"}')
        if path == "/v1/models":
            card = {"id": self.state.name, "object": "model", "created": CREATED, "owned_by": "llamacpp"}
            return render(200, compact({"object": "list", "data": [card | {"meta": {"n_ctx": self.state.max_model_len}}]}))
        if path == "/metrics":
            return render(200, _metrics(self.state), kind="text/plain; version=0.0.4")
        return render(404, error_body("File Not Found", code=404, kind="not_found_error"))

    def post(self, path: str, body: dict[str, Any]) -> bytes | None:
        if path == "/tokenize":
            return render(200, compact({"tokens": encode(body["content"], parse_special=bool(body.get("parse_special", True)))}))
        if path == "/detokenize":
            return render(200, compact({"content": decode(body["tokens"])}))
        if path == "/apply-template":
            return render(200, compact({"prompt": render_chat(body["messages"])}))
        if path in (CHAT, COMPLETIONS):
            return None
        return render(404, error_body("File Not Found", code=404, kind="not_found_error"))

    async def generate(self, path: str, body: dict[str, Any], answer: Answer) -> None:
        prompt = _prompt(path, body)
        asked = body.get("max_tokens", body.get("n_predict", -1))
        left = self.state.max_model_len - len(prompt)
        generation = _Generation(self, body, prompt=prompt, max_tokens=left if asked < 0 else min(left, asked))
        shape = _Shape(body, chat=path == CHAT, prompt=len(prompt), model=self.state.name, number=self.number())
        if body.get("stream"):
            await self._stream(generation, shape, answer)
            return
        pieces = [piece async for piece in generation.pieces(answer, heeds_the_client=False)]
        whole = shape.whole("".join(pieces), generation)
        await answer.send_whole(render(200, compact(whole), kind="application/json; charset=utf-8"))

    async def _stream(self, generation: _Generation, shape: _Shape, answer: Answer) -> None:
        await answer.send(_HEAD)
        for event in shape.opening():
            await answer.frame(_sse(event))
        async for piece in generation.pieces(answer, heeds_the_client=True):
            if piece:
                await answer.frame(_sse(shape.event(piece)))
            await answer.handed_out(1)
        for event in shape.closing(generation):
            await answer.frame(_sse(event))
        await answer.frame(b"data: [DONE]\n\n")
        await answer.send(b"0\r\n\r\n")
        await answer.hang_up()


def _prompt(path: str, body: dict[str, Any]) -> list[int]:
    if path == CHAT:
        return encode(render_chat(body["messages"]), parse_special=True)
    prompt = body["prompt"]
    return encode(prompt, parse_special=True) if isinstance(prompt, str) else list(prompt)


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + compact(event) + b"\n\n"


class _Generation:
    """Tokens to text in llama.cpp's manner."""

    def __init__(self, dialect: LlamacppDialect, body: dict[str, Any], *, prompt: list[int], max_tokens: int) -> None:
        self._state = dialect.state
        self._prompt = prompt
        self._options = read_options(body, max_tokens=max_tokens, nonce=f"{id(dialect)} {len(prompt)}")
        self.output: list[int] = []
        self.finish_reason = "length"

    async def pieces(self, answer: Answer, *, heeds_the_client: bool) -> AsyncIterator[str]:
        """Text of each token, empty while it is held back."""
        raw, given = b"", 0
        while len(self.output) < self._options.max_tokens:
            token = self._next()
            await answer.token(heeds_the_client=heeds_the_client)
            self.output.append(token)
            if token == EOS and not self._options.ignore_eos:
                self.finish_reason = "stop"
                break
            raw += b"" if is_special(token) else VOCABULARY[token]
            text, stopped = self._visible(raw)
            if stopped:
                self.finish_reason = "stop"
                yield text[given:]
                return
            yield text[given:]
            given = max(given, len(text))
        yield raw.decode("utf-8", "replace")[given:]

    def _next(self) -> int:
        banned = {EOS} if self._options.ignore_eos else ()
        return self._state.model.next_id(self._prompt, self.output, self._options.sampling, banned=banned)

    def _visible(self, raw: bytes) -> tuple[str, bool]:
        """What may be shown of all text so far, and whether a stop string ended it."""
        text = raw[: len(raw) - _incomplete(raw)].decode("utf-8", "replace")
        found = [at for stop in self._options.stop if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], True
        held = max((_overlap(text, stop) for stop in self._options.stop), default=0)
        return text[: len(text) - held], False


def _incomplete(raw: bytes) -> int:
    """Length of a beginning of a character at the end."""
    for size in range(1, min(4, len(raw)) + 1):
        lead = raw[-size]
        need = 2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 else 0
        if need:
            return size if need > size else 0
        if lead >> 6 != 0b10:
            return 0
    return 0


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` is a beginning of `stop`."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)


class _Shape:
    """Events and answers of both endpoints."""

    def __init__(self, request: dict[str, Any], *, chat: bool, prompt: int, model: str, number: int) -> None:
        self._chat = chat
        self._prompt = prompt
        self._usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self._id = f"chatcmpl-{number:032d}"
        self._tail = {"created": CREATED, "model": model, "system_fingerprint": "b0-unknown"}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {"choices": choices} | self._tail | {"object": kind, "id": self._id}

    def opening(self) -> Iterator[dict[str, Any]]:
        if self._chat:
            yield self._event([{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}])

    def event(self, text: str) -> dict[str, Any]:
        if self._chat:
            return self._event([{"finish_reason": None, "index": 0, "delta": {"content": text}}])
        return self._event([{"text": text, "index": 0, "logprobs": None, "finish_reason": None}])

    def closing(self, generation: _Generation) -> Iterator[dict[str, Any]]:
        counts = self._counts(generation)
        if self._chat:
            yield self._event([{"finish_reason": generation.finish_reason, "index": 0, "delta": {}}])
            if self._usage:
                yield self._event([]) | counts
            return
        yield self._event([{"text": "", "index": 0, "logprobs": None, "finish_reason": generation.finish_reason}]) | counts

    def whole(self, text: str, generation: _Generation) -> dict[str, Any]:
        choice: dict[str, Any] = {"finish_reason": generation.finish_reason, "index": 0}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": generation.finish_reason}
        kind = "chat.completion" if self._chat else "text_completion"
        return {"choices": [choice]} | self._tail | {"object": kind, "id": self._id} | self._counts(generation)

    def _counts(self, generation: _Generation) -> dict[str, Any]:
        made = len(generation.output)
        usage = {"completion_tokens": made, "prompt_tokens": self._prompt, "total_tokens": self._prompt + made}
        timings = {"cache_n": 0, "prompt_n": self._prompt, "predicted_n": made}
        return {"usage": usage | {"prompt_tokens_details": {"cached_tokens": 0}}, "timings": timings}


def _metrics(state: EngineState) -> bytes:
    active, made = state.counters.active, state.counters.generated
    return (
        f"llamacpp:requests_processing {active}\nllamacpp:requests_deferred 0\nllamacpp:tokens_predicted_total {made}\n".encode()
    )
