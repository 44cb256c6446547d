"""Which tier a request goes to. Pure: the policy of a model, the facts of a request and the tiers in sums; a placement out.

Order: field rules (by priority, a preference) > metrics. A request that already runs and is continued is not decided here.

- standby: the CPU tier answers while no GPU engine is ready.
- overflow: also when the GPU tier is saturated, the answer is short enough, the CPU tier has room, and is predicted to finish
  earlier. Where nothing was learned yet, saturation alone decides, which is also how the CPU tier's rates become known.
- relay: as overflow, but the GPU tier reads the prompt and produces the first tokens, and the CPU tier continues. A request that
  cannot be continued stays on the GPU tier.

A tier is saturated when its cache is fuller than `gpu_kv_percent`, or when no engine has room and, with this one, at least
`gpu_waiting` requests would wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from mica_router.core.facts import RequestFacts
from mica_router.core.rates import Rates
from mica_router.core.rules import NO_RULES, Rule, RuleSet
from mica_router.core.tiers import Tier, TierView


class Mode(StrEnum):
    """What the CPU tier is for."""

    OVERFLOW = "overflow"
    RELAY = "relay"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPolicy:
    """How requests of a model are divided. `max_output_tokens`: the longest answer that overflows, None for any.

    `relay_after`: tokens of the GPU tier in mode relay. `no_gpu_ready`: the CPU tier answers while no GPU engine is ready.
    """

    mode: Mode = Mode.OVERFLOW
    gpu_kv_percent: float = 90.0
    gpu_waiting: int = 1
    no_gpu_ready: bool = True
    max_output_tokens: int | None = 256
    relay_after: int = 16
    rules: RuleSet = NO_RULES


class Reason(StrEnum):
    """Why a request was placed as it was; a label of the decision mix."""

    ONLY_TIER = "only_tier"
    RULE = "rule"
    GPU_FREE = "gpu_free"
    GPU_SATURATED = "gpu_saturated"
    GPU_SOONER = "gpu_sooner"
    CPU_FULL = "cpu_full"
    ANSWER_TOO_LONG = "answer_too_long"
    NOT_CONTINUABLE = "not_continuable"
    STANDBY_IDLE = "standby_idle"
    NO_GPU = "no_gpu"
    NONE_READY = "none_ready"
    BUSY = "busy"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Tiers in the order in which they are tried; none when the request must wait or be refused (`reason` says which).

    `relay_after`: continue on the other tier after so many tokens; 0 for never. `rule`: name of the rule that decided.
    """

    tiers: tuple[Tier, ...]
    reason: Reason
    relay_after: int = 0
    rule: str = ""


class Forecast(NamedTuple):
    """Seconds until a request would begin, and until it would have ended."""

    wait: float
    finish: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Both tiers at one moment, and what was learned of them."""

    gpu: TierView
    cpu: TierView
    gpu_rates: Rates
    cpu_rates: Rates

    def view(self, tier: Tier) -> TierView:
        """One tier in sums."""
        return self.gpu if tier is Tier.GPU else self.cpu

    def forecast(self, tier: Tier, facts: RequestFacts) -> Forecast | None:
        """When one more request would be done there; None when nothing was learned or no engine is ready."""
        return forecast(self.view(tier), self.gpu_rates if tier is Tier.GPU else self.cpu_rates, facts)


_GPU_FIRST: Final = (Tier.GPU, Tier.CPU)
_CPU_FIRST: Final = (Tier.CPU, Tier.GPU)


def decide(policy: TierPolicy, facts: RequestFacts, tiers: Tiers, *, continuable: bool = False) -> Placement:
    """Place one request. `continuable`: whether it could be continued from its tokens on another engine."""
    if not tiers.gpu.ready or not tiers.cpu.ready:
        return _one_sided(policy, tiers)
    rule = matching_rule(policy, facts)
    if rule is not None and not tiers.view(rule.tier).full:
        return Placement(tiers=(rule.tier, rule.tier.other), reason=Reason.RULE, rule=rule.name)
    if policy.mode is Mode.STANDBY:
        return Placement(tiers=_gpu_then(policy), reason=Reason.STANDBY_IDLE)
    if not saturated(policy, tiers.gpu):
        return Placement(tiers=_gpu_then(policy), reason=Reason.GPU_FREE)
    return _overflow(policy, facts, tiers, continuable=continuable)


def matching_rule(policy: TierPolicy, facts: RequestFacts) -> Rule | None:
    """The rule that a request meets, whether or not its tier has room."""
    return policy.rules.match(facts.field) if policy.rules else None


def saturated(policy: TierPolicy, gpu: TierView) -> bool:
    """Whether the GPU tier is under pressure by the policy's thresholds."""
    if gpu.kv_used is not None and gpu.kv_used * 100 > policy.gpu_kv_percent:
        return True
    # One more request in a full tier would be one more that waits.
    return gpu.full and gpu.waiting + 1 >= policy.gpu_waiting


def forecast(view: TierView, rates: Rates, facts: RequestFacts) -> Forecast | None:
    """One more request in a tier: what waits before it is served at the tier's own pace, then it runs beside the others."""
    if not view.ready:
        return None
    per_engine = min((view.busy + 1) / view.engines, max(view.capacity / view.engines, 1.0))
    output = rates.expected_output(facts.max_tokens)
    service = rates.service_time(prompt=facts.prompt_tokens, output=output, concurrency=per_engine)
    if service is None:
        return None
    ahead = 0 if view.free > 0 else max(view.waiting, view.busy - view.capacity) + 1
    wait = ahead * service / max(view.capacity, 1)
    return Forecast(wait, wait + service)


def _one_sided(policy: TierPolicy, tiers: Tiers) -> Placement:
    if tiers.gpu.ready:
        return Placement(tiers=(Tier.GPU,), reason=Reason.ONLY_TIER)
    if tiers.cpu.ready and policy.no_gpu_ready:
        return Placement(tiers=(Tier.CPU,), reason=Reason.NO_GPU)
    return Placement(tiers=(), reason=Reason.NONE_READY)


def _overflow(policy: TierPolicy, facts: RequestFacts, tiers: Tiers, *, continuable: bool) -> Placement:
    """The GPU tier is saturated: is the CPU tier better?"""
    stay = _gpu_then(policy)
    if tiers.cpu.full:
        return Placement(tiers=stay, reason=Reason.CPU_FULL)
    if policy.mode is Mode.RELAY:
        if not continuable:
            return Placement(tiers=stay, reason=Reason.NOT_CONTINUABLE)
        return Placement(tiers=stay, reason=Reason.GPU_SATURATED, relay_after=policy.relay_after)
    limit, cap = facts.max_tokens, policy.max_output_tokens
    if cap is not None and (limit is None or limit > cap):
        return Placement(tiers=stay, reason=Reason.ANSWER_TOO_LONG)
    gpu, cpu = tiers.forecast(Tier.GPU, facts), tiers.forecast(Tier.CPU, facts)
    if gpu is not None and cpu is not None and cpu.finish >= gpu.finish:
        return Placement(tiers=stay, reason=Reason.GPU_SOONER)
    return Placement(tiers=_CPU_FIRST, reason=Reason.GPU_SATURATED)


def _gpu_then(policy: TierPolicy) -> tuple[Tier, ...]:
    """The CPU tier takes what every GPU engine failed at, if it may stand in at all."""
    return _GPU_FIRST if policy.no_gpu_ready else (Tier.GPU,)
