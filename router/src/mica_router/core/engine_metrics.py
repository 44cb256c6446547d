"""What engines say of themselves in `/metrics`: the few numbers that deciding needs, under every name that they have had.

The text is searched once by one expression; lines that mean nothing here cost nothing but their length. Several series of one
name (models, data-parallel ranks) are summed, fractions are averaged. Pure: bytes in, values out. Not a Prometheus client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from mica_router.core.choice import EngineGauges
from mica_router.core.rates import Rates

MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_SERIES: Final = 4096


class MetricsError(ValueError):
    """The text holds none of the numbers of a known engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at an engine. Totals rise from the engine's start; None: the engine has no such number. Times in seconds."""

    running: float | None = None
    waiting: float | None = None
    swapped: float | None = None
    kv_used: float | None = None
    generation_tps: float | None = None
    prompt_tps: float | None = None
    generated_total: float | None = None
    prompt_total: float | None = None
    answers_total: float | None = None
    token_seconds: float | None = None
    token_gaps: float | None = None
    prefill_seconds: float | None = None
    prefills: float | None = None


ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "running": ("vllm:num_requests_running", "llamacpp:requests_processing", "sglang:num_running_reqs"),
    "waiting": ("vllm:num_requests_waiting", "llamacpp:requests_deferred", "sglang:num_queue_reqs"),
    "swapped": ("vllm:num_requests_swapped",),
    "kv_used": (
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "llamacpp:kv_cache_usage_ratio",
        "sglang:token_usage",
    ),
    "generation_tps": ("vllm:avg_generation_throughput_toks_per_s", "sglang:gen_throughput"),
    "prompt_tps": ("vllm:avg_prompt_throughput_toks_per_s",),
    "generated_total": ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total", "sglang:generation_tokens_total"),
    "prompt_total": ("vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total", "sglang:prompt_tokens_total"),
    "answers_total": ("vllm:request_success_total", "sglang:num_requests_total"),
    "token_seconds": (
        "vllm:inter_token_latency_seconds_sum",
        "vllm:time_per_output_token_seconds_sum",
        "llamacpp:tokens_predicted_seconds_total",
        "sglang:inter_token_latency_seconds_sum",
    ),
    "token_gaps": (
        "vllm:inter_token_latency_seconds_count",
        "vllm:time_per_output_token_seconds_count",
        "llamacpp:tokens_predicted_total",
        "sglang:inter_token_latency_seconds_count",
    ),
    "prefill_seconds": ("vllm:request_prefill_time_seconds_sum", "llamacpp:prompt_seconds_total"),
    "prefills": ("vllm:request_prefill_time_seconds_count",),
}
"""Names of each number, the current one first; the first that an engine has is used."""

_AVERAGED: Final = frozenset({"kv_used"})
_WANTED: Final = sorted({name for names in ALIASES.values() for name in names})
_LINE: Final = re.compile(
    rb"^(" + b"|".join(re.escape(name.encode()) for name in _WANTED) + rb")"
    rb"(?:\{(?:[^\"}\n]|\"(?:[^\"\\\n]|\\[^\n])*\")*\})?[ \t]+([^ \t\r\n]+)",
    re.MULTILINE,
)


def parse_metrics(text: bytes) -> Reading:
    """Numbers of one engine. A value that is no number or is not finite is as good as absent. Raises MetricsError."""
    series: dict[str, list[float]] = {}
    for index, found in enumerate(_LINE.finditer(text)):
        if index >= _MAX_SERIES:
            raise MetricsError(f"more than {_MAX_SERIES} series: this is no single engine")
        name = found[1].decode()
        value = _number(found[2])
        if value is not None:
            series.setdefault(name, []).append(value)
    if not series:
        raise MetricsError("no number of a known engine: neither vllm:, llamacpp: nor sglang: metrics")
    return Reading(**{field: _combine(field, series) for field in ALIASES})


def gauges(reading: Reading, previous: Reading | None, *, seconds: float) -> EngineGauges:
    """State of the engine. Speeds that it does not tell follow from its totals and the `seconds` since the previous look."""
    kv, speed, prompts = reading.kv_used, reading.generation_tps, reading.prompt_tps
    return EngineGauges(
        age=0.0,
        running=_count(reading.running),
        waiting=_count(reading.waiting),
        swapped=_count(reading.swapped),
        kv_percent=None if kv is None else min(max(kv, 0.0), 1.0) * 100,
        generation_rate=_speed(reading, previous, "generated_total", seconds) if speed is None else speed,
        prompt_rate=_speed(reading, previous, "prompt_total", seconds) if prompts is None else prompts,
    )


def learn(rates: Rates, reading: Reading, previous: Reading) -> None:
    """Add to a tier's rates what an engine did between two looks. An engine that was restarted in between teaches nothing."""
    step = {field.name: _rise(reading, previous, field.name) for field in fields(Reading)}
    gaps, waited = step["token_gaps"], step["token_seconds"]
    running = ((reading.running or 0.0) + (previous.running or 0.0)) / 2
    if gaps and waited is not None:
        rates.saw_tokens(concurrency=max(running, 1.0), seconds_per_token=waited / gaps)
    prompts, reading_time = step["prompt_total"], step["prefill_seconds"]
    if prompts and reading_time is not None:
        # Engines that do not count prompts give the sum of several; their line is as good as proportional.
        each = max(step["prefills"] or 1.0, 1.0)
        rates.saw_prompt(tokens=prompts / each, seconds=reading_time / each)
    answers, generated = step["answers_total"], step["generated_total"]
    if answers and generated is not None:
        rates.saw_answer(tokens=generated / answers)


def _combine(field: str, series: Mapping[str, list[float]]) -> float | None:
    for name in ALIASES[field]:
        values = series.get(name)
        if values:
            return sum(values) / len(values) if field in _AVERAGED else sum(values)
    return None


def _number(raw: bytes) -> float | None:
    try:
        value = float(raw)
    except ValueError:
        return None
    return value if abs(value) < 1e300 else None


def _count(value: float | None) -> float | None:
    return None if value is None else max(value, 0.0)


def _rise(reading: Reading, previous: Reading, name: str) -> float | None:
    now, before = getattr(reading, name), getattr(previous, name)
    return now - before if now is not None and before is not None and now >= before else None


def _speed(reading: Reading, previous: Reading | None, name: str, seconds: float) -> float | None:
    rise = None if previous is None else _rise(reading, previous, name)
    return rise / seconds if rise is not None and seconds > 0 else None
