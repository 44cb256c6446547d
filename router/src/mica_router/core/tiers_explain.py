"""Why a request would go where: the answer of `GET /explain`, built from the values that the decision is made from. Pure."""

from __future__ import annotations

from typing import Any

from mica_router.core.engines import Tier
from mica_router.core.facts import RequestFacts
from mica_router.core.routing import FieldRule, Routing
from mica_router.core.rules import describe, holds
from mica_router.core.tiers import CPU, GPU
from mica_router.core.tiers_decide import Placement, Reason, Tiers, saturated

_WORDS = {
    Reason.ONLY_TIER: "only this tier has a ready engine",
    Reason.RULE: "a field rule sends it there and the tier has room",
    Reason.GPU_FREE: "the GPU tier is not saturated",
    Reason.GPU_SATURATED: "the GPU tier is saturated and the CPU tier has room",
    Reason.GPU_SOONER: "the GPU tier is saturated, and yet it is predicted to finish earlier than the CPU tier",
    Reason.CPU_FULL: "the GPU tier is saturated, and so is the CPU tier",
    Reason.ANSWER_TOO_LONG: "the GPU tier is saturated, but the answer may be longer than cpu.maxOutputTokens; set max_tokens",
    Reason.STANDBY_IDLE: "the CPU tier only stands by",
    Reason.NO_GPU: "no GPU engine is ready, and the CPU tier stands in",
    Reason.NONE_READY: "no engine that may take it is ready",
    Reason.BUSY: "both tiers are busy by the configured thresholds",
    Reason.BALANCE: "the tier is the faster one for one more request",
}


def words(placement: Placement) -> str:
    """The reason in words."""
    return _WORDS[placement.reason]


def explain_placement(routing: Routing, facts: RequestFacts, tiers: Tiers, placement: Placement) -> dict[str, Any]:
    """JSON-able account of a placement."""
    return {
        "tiers": list(placement.tiers),
        "reason": placement.reason.value,
        "words": words(placement),
        "rule": placement.rule or None,
        "relayAfterTokens": placement.relay_after or None,
        "request": {
            "path": facts.path,
            "promptTokensEstimated": facts.prompt_tokens,
            "maxTokens": facts.max_tokens,
        },
        "rules": [_rule(rule, facts, tiers) for rule in routing.rules],
        "saturated": saturated(routing.cpu, tiers.gpu) if tiers.gpu.ready else None,
        "gpu": _tier(GPU, facts, tiers),
        "cpu": _tier(CPU, facts, tiers),
    }


def _rule(rule: FieldRule, facts: RequestFacts, tiers: Tiers) -> dict[str, Any]:
    unmet = [describe(one) for one in rule.conditions if not holds(one, facts.field(one.field))]
    return {
        "name": rule.name,
        "priority": rule.priority,
        "tier": rule.tier,
        "matches": not unmet,
        "unmet": unmet,
        "tierFull": tiers.view(rule.tier).full,
    }


def _tier(tier: Tier, facts: RequestFacts, tiers: Tiers) -> dict[str, Any]:
    view, forecast = tiers.view(tier), tiers.forecast(tier, facts)
    return {
        "engines": view.engines,
        "inFlight": view.in_flight,
        "busy": view.busy,
        "waiting": view.waiting,
        "capacity": view.capacity,
        "free": view.free,
        "saturation": round(view.saturation, 3),
        "kvPercent": None if view.kv_percent is None else round(view.kv_percent, 1),
        "predictedWaitSeconds": None if forecast is None else round(forecast.wait, 3),
        "predictedFinishSeconds": None if forecast is None else round(forecast.finish, 3),
    }
