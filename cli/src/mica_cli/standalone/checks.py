"""Before the router starts: does every engine answer, does it serve the model, and how do the tiers compare.

An engine that is down is named and does not keep the router from starting: it is taken in when it answers. The comparison is one
request to the first living engine of each tier, which says how fast a lone request is there, not what a loaded tier can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from mica_cli.standalone.config import TIERS, Config, Engine

KINDS: Final = ("vllm", "llamacpp")
"""Engine programs that the router knows dialects of, as they call themselves in `owned_by` of their models."""

_ANSWER_SECONDS: Final = 5.0
_TEST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one engine said. `problem` is None when it is fit to serve; `models` is what it serves, `kind` what program it is."""

    tier: str
    url: str
    models: tuple[str, ...] = ()
    problem: str | None = None
    kind: str = "vllm"

    @property
    def serves_others(self) -> bool:
        """Whether it answers, and serves other models: requests for ours would fail there."""
        return self.problem is not None and bool(self.models)


@dataclass(frozen=True, slots=True)
class Pace:
    """One request at one tier: tokens per second, and seconds from asking to the end."""

    tier: str
    tokens_per_second: float
    seconds: float


def reach(config: Config, client: httpx.Client) -> list[Answer]:
    """Ask every engine which models it serves."""
    return [_ask(tier, engine, config, client) for tier in TIERS for engine in getattr(config.services, tier)]


def _ask(tier: str, engine: Engine, config: Config, client: httpx.Client) -> Answer:
    url = address(engine)
    try:
        reply = client.get(f"{url}/v1/models", timeout=_ANSWER_SECONDS)
        reply.raise_for_status()
        cards = reply.json()["data"]
        models = tuple(str(card["id"]) for card in cards)
        owners = {str(card.get("owned_by")) for card in cards}
    except httpx.HTTPStatusError as error:
        return Answer(tier, url, problem=f"answers {error.response.status_code} to GET /v1/models")
    except httpx.HTTPError as error:
        return Answer(tier, url, problem=f"does not answer: {error}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer(tier, url, problem="answers something that is no list of models to GET /v1/models")
    wrong = None if config.models.default in models else f"serves {', '.join(models) or 'nothing'}, not {config.models.default}"
    return Answer(tier, url, models, wrong, next((kind for kind in KINDS if kind in owners), "other"))


def compare(
    config: Config, answers: Sequence[Answer], client: httpx.Client, *, clock: Callable[[], float] = time.monotonic
) -> list[Pace]:
    """The pace of the first fit engine of each tier; a tier whose request fails is left out."""
    paces = []
    for tier in TIERS:
        fit = next((answer for answer in answers if answer.tier == tier and answer.problem is None), None)
        pace = _pace(fit, config, client, clock) if fit is not None else None
        paces.extend([pace] if pace is not None else [])
    return paces


def _pace(answer: Answer, config: Config, client: httpx.Client, clock: Callable[[], float]) -> Pace | None:
    params = config.models.params
    body: dict[str, Any] = {"model": config.models.default, "max_tokens": params.test_tokens, "temperature": 0}
    body["messages"] = [{"role": "user", "content": params.test_prompt}]
    began = clock()
    try:
        reply = client.post(f"{answer.url}/v1/chat/completions", json=body, timeout=_TEST_SECONDS)
        reply.raise_for_status()
        tokens = int(reply.json()["usage"]["completion_tokens"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    seconds = max(clock() - began, 1e-6)
    return Pace(answer.tier, tokens / seconds, seconds) if tokens > 0 else None


def performance_ratio(paces: Sequence[Pace]) -> float | None:
    """How many times the GPU tier is ahead: the mean of the ratios of throughput and of latency. None without both tiers."""
    by_tier = {pace.tier: pace for pace in paces}
    if set(by_tier) != set(TIERS):
        return None
    gpu, cpu = by_tier["gpu"], by_tier["cpu"]
    return (gpu.tokens_per_second / cpu.tokens_per_second + cpu.seconds / gpu.seconds) / 2


def address(engine: Engine) -> str:
    """URL of an engine, without a path."""
    return f"http://[{engine.host}]:{engine.port}" if ":" in engine.host else f"http://{engine.host}:{engine.port}"
