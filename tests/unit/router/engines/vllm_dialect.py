"""vLLM's OpenAI server as clients see it (0.32): field order, nulls, token ids, usage, errors, models, tokenize, detokenize.

Left out: images, tools, parsers, structured output (which the toy model treats as a penalty that depends on the output).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from .generation import Step, generate, read_options
from .toy_engine import STREAM_HEAD, Answer, Dialect, EngineState, ToyEngine, compact, error_body, joined, render
from .toy_model import ToyModel, decode, encode, render_chat

CREATED: Final = 1_790_000_000
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class BadRequest(Exception):
    """A 400, as vLLM words it; `status` for others."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.response = render(status, error_body(message, code=status, kind=kind, param=param))


def vllm_engine(**settings: Any) -> ToyEngine:
    """An engine that is not started yet. Settings are those of `EngineState`."""
    return ToyEngine(VllmDialect, **settings)


class VllmDialect(Dialect):
    """Routes and shapes."""

    def get(self, path: str) -> bytes:
        state = self.state
        if path == "/health":
            return render(200, b"")
        if path == "/version":
            return render(200, compact({"version": state.version}))
        if path == "/v1/models":
            return render(200, compact({"object": "list", "data": [self._card(n) for n in (state.name, *state.adapters)]}))
        if path == "/metrics":
            return render(200, _metrics(state), kind="text/plain; version=0.0.4")
        return render(404, compact({"detail": "Not Found"}))

    def _card(self, name: str) -> dict[str, Any]:
        parent = None if name == self.state.name else self.state.name
        card = {"id": name, "object": "model", "created": CREATED, "owned_by": "vllm", "root": name, "parent": parent}
        return card | {"max_model_len": self.state.max_model_len}

    def post(self, path: str, body: dict[str, Any]) -> bytes | None:
        try:
            if path == "/tokenize":
                return render(200, compact(self._tokenize(body)))
            if path == "/detokenize":
                return render(200, compact({"prompt": decode(body["tokens"])}))
            if path in (CHAT, COMPLETIONS):
                self._check(path, body)
                return None
        except BadRequest as refusal:
            return refusal.response
        return render(404, compact({"detail": "Not Found"}))

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self._prompt(CHAT if "messages" in body else COMPLETIONS, body)
        return {"count": len(ids), "max_model_len": self.state.max_model_len, "tokens": ids, "token_strs": None}

    def _check(self, path: str, body: dict[str, Any]) -> None:
        model = body.get("model") or self.state.name
        if model not in (self.state.name, *self.state.adapters):
            raise BadRequest(f"The model `{model}` does not exist.", param="model", status=404, kind="NotFoundError")
        if body.get("stream_options") and not body.get("stream"):
            raise BadRequest("Stream options can only be defined when `stream=True`.", param="stream_options")
        prompt = self._prompt(path, body)
        allowed = self._max_tokens(path, body, prompt)
        if allowed < 1:
            raise BadRequest(f"max_tokens must be at least 1, got {allowed}.", param="max_tokens")
        if len(prompt) + allowed > self.state.max_model_len:
            raise BadRequest(f"This model's maximum context length is {self.state.max_model_len} tokens.", param="input_tokens")
        if (body.get("min_tokens") or 0) > allowed:
            raise BadRequest("min_tokens must be less than or equal to max_tokens.", param="min_tokens")

    def _max_tokens(self, path: str, body: dict[str, Any], prompt: list[int]) -> int:
        left = self.state.max_model_len - len(prompt)
        limits = {CHAT: body.get("max_completion_tokens", body.get("max_tokens")), COMPLETIONS: body.get("max_tokens", 16)}
        asked = limits[path]
        return left if asked is None else int(asked)

    def _prompt(self, path: str, body: dict[str, Any]) -> list[int]:
        if path == CHAT:
            generation = body.get("add_generation_prompt", True)
            return encode(render_chat(body["messages"], add_generation_prompt=generation), parse_special=True)
        prompt = body["prompt"]
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        return encode(prompt) if isinstance(prompt, str) else list(prompt)

    async def generate(self, path: str, body: dict[str, Any], answer: Answer) -> None:
        number = self.number()
        prompt = self._prompt(path, body)
        options = read_options(
            body,
            max_tokens=self._max_tokens(path, body, prompt),
            nonce=f"{id(self)} {number}",
            variant=self.state.variant,
        )
        model = body.get("model") or self.state.name
        steps = generate(_weights(self.state.model, model, self.state.name), prompt, options)
        kind = _Chat if path == CHAT else _Completion
        shape = kind(body, prompt=prompt, model=model, number=number)
        if body.get("stream"):
            await self._stream(shape, steps, answer)
        else:
            await answer.send_whole(render(200, compact(shape.whole(await answer.steps(steps)))))

    async def _stream(self, shape: _Shape, steps: Iterator[Step], answer: Answer) -> None:
        await answer.send(STREAM_HEAD)
        for event in shape.opening():
            await answer.frame(_sse(event))

        async def send_event(group: list[Step]) -> None:
            await answer.frame(_sse(shape.event(group)))

        await answer.events(steps, send_event)
        for event in shape.closing():
            await answer.frame(_sse(event))
        await answer.frame(b"data: [DONE]\n\n")
        await answer.send(b"0\r\n\r\n")


def _weights(model: ToyModel, name: str, base: str) -> ToyModel:
    """A LoRA adapter is another model."""
    return model if name == base else ToyModel(seed=model.seed + sum(name.encode()), lifetime=model.lifetime)


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + compact(event) + b"\n\n"


class _Shape:
    """What chat and completions share."""

    kind: str
    prefix: str

    def __init__(self, request: dict[str, Any], *, prompt: list[int], model: str, number: int) -> None:
        self._prompt = prompt
        self._ids = bool(request.get("return_token_ids"))
        options = request.get("stream_options") or {}
        self._usage = bool(options.get("include_usage"))
        self._continuous = self._usage and bool(options.get("continuous_usage_stats"))
        self._head = {"id": f"{self.prefix}-{number:032x}", "object": self.kind, "created": CREATED, "model": model}
        self._generated = 0

    def _counts(self) -> dict[str, int]:
        prompt, generated = len(self._prompt), self._generated
        return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = self._head | {"choices": [choice]}
        return chunk | {"usage": self._counts()} if self._continuous else chunk

    def opening(self) -> list[dict[str, Any]]:
        """Events before the first token."""
        return []

    def event(self, group: list[Step]) -> dict[str, Any]:
        """The event of some tokens."""
        text, ids, last = joined(group)
        first, self._generated = not self._generated, self._generated + len(ids)
        return self._chunk(self._choice(text, ids if self._ids else None, last, first=first))

    def _choice(self, text: str, ids: list[int] | None, last: Step, *, first: bool) -> dict[str, Any]:
        raise NotImplementedError

    def closing(self) -> list[dict[str, Any]]:
        """Events after the last token."""
        return [self._head | {"choices": [], "usage": self._counts()}] if self._usage else []

    def whole(self, steps: list[Step]) -> dict[str, Any]:
        """The answer that is not streamed."""
        raise NotImplementedError

    def _whole(self, choice: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
        self._generated = len(steps)
        rest = {"service_tier": None, "system_fingerprint": None, "usage": self._counts() | {"prompt_tokens_details": None}}
        return self._head | {"choices": [choice]} | rest


class _Chat(_Shape):
    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def opening(self) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": role, "logprobs": None, "finish_reason": None}
        ids = self._prompt if self._ids else None
        return [self._chunk(choice) | {"prompt_token_ids": ids, "prompt_text": None}]

    def _choice(self, text: str, ids: list[int] | None, last: Step, *, first: bool) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": last.finish_reason}
        if last.finish_reason:
            choice["stop_reason"] = last.stop_reason
        return choice | {"token_ids": ids}

    def whole(self, steps: list[Step]) -> dict[str, Any]:
        text, ids, last = joined(steps)
        message = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish_reason}
        choice |= {"stop_reason": last.stop_reason, "token_ids": ids if self._ids else None}
        return self._whole(choice, steps) | {"object": "chat.completion"}


class _Completion(_Shape):
    kind, prefix = "text_completion", "cmpl"

    def _choice(self, text: str, ids: list[int] | None, last: Step, *, first: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": last.finish_reason}
        prompt = self._prompt if first and self._ids else None
        return choice | {"stop_reason": last.stop_reason, "prompt_token_ids": prompt, "token_ids": ids}

    def whole(self, steps: list[Step]) -> dict[str, Any]:
        text, ids, last = joined(steps)
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": last.finish_reason}
        choice |= {"stop_reason": last.stop_reason, "token_ids": ids if self._ids else None, "prompt_token_ids": None}
        return self._whole(choice, steps)


def _metrics(state: EngineState) -> bytes:
    label = f'{{engine="0",model_name="{state.name}"}}'
    values: dict[str, Callable[[], float]] = {
        "vllm:num_requests_running": lambda: state.counters.active,
        "vllm:num_requests_waiting": lambda: 0,
        "vllm:kv_cache_usage_perc": lambda: min(1.0, state.counters.active / 16),
        "vllm:generation_tokens_total": lambda: state.counters.generated,
    }
    return "".join(f"{name}{label} {float(value())}\n" for name, value in values.items()).encode()
