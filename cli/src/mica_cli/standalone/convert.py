"""From the configuration file to what the router reads: a routes file and settings. Pure.

Where each key of the file goes is listed in `docs/stand-alone.md`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from mica_cli.standalone.checks import address
from mica_cli.standalone.config import TIERS, Config, Decider

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")
DEFAULT_KIND: Final = "vllm"
"""What an engine is taken for that does not answer at the start."""


def routes_of(config: Config, *, kinds: Mapping[str, str], without: Collection[str] = ()) -> dict[str, Any]:
    """Content of the routes file. `kinds`: engine program by URL, as far as it is known; `without`: URLs that are left out."""
    params, seconds = config.models.params, config.system.request_timeout
    engines = [engine for engine in _engines(config, kinds) if engine["url"] not in without]
    # With engines of one tier (the others may serve another model today) there is nothing to divide.
    divided = _divided(engines)
    model: dict[str, Any] = {
        "name": _NOT_IN_NAMES.sub("-", config.models.default.lower())[:63].strip("-") or "model",
        "model": config.models.default,
        "default": True,
        "engines": engines,
        "defaults": {"max_tokens": params.max_tokens, "temperature": params.temperature},
        "routing": {
            "timeouts": {"total": _duration(seconds)},
            "queue": {"maxRequests": config.system.max_queue_size, "maxWait": _duration(seconds)},
        },
    }
    if divided:
        model |= {"decider": _decider(config.decider), "cpu": _cpu(config.decider)}
        model["routing"]["rules"] = [rule.model_dump(mode="json") for rule in config.routing.rules]
    return {"models": [model]}


def idle_keys(config: Config, *, without: Collection[str]) -> str | None:
    """In words, which keys are not in force because of the engines that are left out; None where all are."""
    kept = [engine for engine in _engines(config, {}) if engine["url"] not in without]
    if _divided(kept) or not _divided(_engines(config, {})):
        return None
    keys = "decider.* and routing.rules" if config.routing.rules else "decider.*"
    return f"{keys} divide requests between two tiers and are not in force: every engine of one of them was left out"


def _divided(engines: Sequence[Mapping[str, Any]]) -> bool:
    return len({engine["tier"] for engine in engines}) == len(TIERS)


def _cpu(decider: Decider) -> dict[str, Any]:
    """How the CPU tier is used, as far as the decider does not say it."""
    if decider.relay:
        return {"mode": "relay", "relayAfterTokens": decider.token_limit_min}
    if decider.policy != "predict":
        return {"mode": "overflow"}
    return {"mode": "overflow", "maxOutputTokens": 0, "when": {"gpuKVPercent": int(decider.gpu_cache_threshold)}}


def no_relay(config: Config, *, kinds: Mapping[str, str], without: Collection[str] = ()) -> str | None:
    """Why streams cannot hop between the tiers of this file, although they should; None where they can, or need not."""
    if not config.decider.relay:
        return None
    engines = [engine for engine in _engines(config, kinds) if engine["url"] not in without]
    for tier in TIERS:
        here = [engine for engine in engines if engine["tier"] == tier]
        if not any(engine["kind"] == "vllm" for engine in here):
            found = ", ".join(f"{engine['url']} is {engine['kind']}" for engine in here) or "none serves the model"
            return (
                f"decider.relay needs vLLM in both tiers, because token ids must mean the same to both; {tier}: {found}. "
                "Start a vLLM engine there, or set decider.relay to false"
            )
    return None


def settings_of(config: Config, *, ratio: float | None) -> dict[str, str]:
    """Environment of the router, as far as the file decides it. `ratio`: how far the GPU tier is ahead of the CPU tier."""
    heartbeat = config.heartbeat
    settings: dict[str, str | float | int] = {
        "MICA_PROBE_INTERVAL": heartbeat.interval,
        "MICA_PROBE_TIMEOUT": heartbeat.timeout,
        "MICA_PROBE_FAILURES": heartbeat.fail_threshold,
        "MICA_SCRAPE_INTERVAL": config.monitor.interval,
    }
    if ratio is not None:
        settings["MICA_PERFORMANCE_RATIO"] = ratio
    return {name: str(value) for name, value in settings.items()}


def _engines(config: Config, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    urls = [(tier, address(engine)) for tier in TIERS for engine in getattr(config.services, tier)]
    room = {tier: _room(config.decider, tier, engines=len(getattr(config.services, tier))) for tier in TIERS}
    return [{"url": url, "tier": tier, "kind": kinds.get(url, DEFAULT_KIND), "maxInFlight": room[tier]} for tier, url in urls]


def _room(decider: Decider, tier: str, *, engines: int) -> int:
    """Requests that one engine takes at once; the CPU tier's bound is shared among its engines."""
    if tier == "gpu" or decider.policy == "thresholds":
        return decider.max_num_seqs
    return min(decider.max_num_seqs, max(1, decider.cpu_max_batch_size // max(engines, 1)))


def _decider(decider: Decider) -> dict[str, Any]:
    if decider.policy == "thresholds":
        thresholds: dict[str, Any] = {
            "policy": "thresholds",
            "maxNumSeqs": decider.max_num_seqs,
            "gpuCacheThreshold": decider.gpu_cache_threshold,
            "cpuThroughputThreshold": decider.cpu_throughput_threshold,
        }
        hops: dict[str, Any] = {
            "tokenLimitMultiplier": decider.token_limit_multiplier,
            "tokenLimitMin": decider.token_limit_min,
            "tokenLimitMax": decider.token_limit_max,
        }
        return thresholds | (hops if decider.relay else {})
    if decider.policy == "balance":
        return {"policy": "balance", "cpuMaxBatchSize": decider.cpu_max_batch_size}
    return {"policy": "predict"}


def _duration(seconds: float) -> str:
    """As InferenceServices write it; at least a millisecond."""
    whole, rest = divmod(max(round(seconds * 1000), 1), 1000)
    return f"{whole}s{rest}ms" if rest else f"{whole}s"
