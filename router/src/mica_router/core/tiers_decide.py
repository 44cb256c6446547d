"""Which tier a request goes to. Pure: the policy of a model, the facts of a request and the tiers in sums; a placement out.

Order: field rules (by priority, a preference) > metrics. A request that already runs and is continued is not decided here.

- standby: the CPU tier answers while no GPU engine is ready.
- overflow: also when the GPU tier is saturated, the answer is short enough, the CPU tier has room, and is predicted to finish
  earlier. Where nothing was learned yet, saturation alone decides, which is also how the CPU tier's rates become known.
- relay: when the GPU tier is saturated and the CPU tier has room, the GPU tier reads the prompt and produces the first tokens,
  and then it is decided again: the CPU tier continues if that still holds. A request that cannot be continued, or asks for no
  more than those first tokens, is placed as by overflow.

A tier is saturated when its cache is fuller than `gpu_kv_percent`, or when no engine has room and, with this one, at least
`gpu_waiting` requests would wait.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from mica_router.core.engines import Tier
from mica_router.core.facts import RequestFacts
from mica_router.core.rates import Rates
from mica_router.core.routing import CpuUse, FieldRule, Routing
from mica_router.core.rules import first_match
from mica_router.core.tiers import CPU, GPU, TierView, other


class Reason(StrEnum):
    """Why a request was placed as it was; a label of the decision mix."""

    ONLY_TIER = "only_tier"
    RULE = "rule"
    GPU_FREE = "gpu_free"
    GPU_SATURATED = "gpu_saturated"
    GPU_SOONER = "gpu_sooner"
    CPU_FULL = "cpu_full"
    ANSWER_TOO_LONG = "answer_too_long"
    STANDBY_IDLE = "standby_idle"
    NO_GPU = "no_gpu"
    NONE_READY = "none_ready"
    BUSY = "busy"
    BALANCE = "balance"


class Placement(NamedTuple):
    """The tier, then the one whose turn comes when every engine of it failed; none when the request waits or is refused.

    `relay_after`: the tier produces so many tokens, then it is decided again; 0: all of them. `rule`: name of the rule that
    decided.
    """

    tiers: tuple[Tier, ...]
    reason: Reason
    relay_after: int = 0
    rule: str = ""


class Forecast(NamedTuple):
    """Seconds until a request would begin, and until it would have ended."""

    wait: float
    finish: float


class Tiers(NamedTuple):
    """Both tiers at one moment, and what was learned of them."""

    gpu: TierView
    cpu: TierView
    gpu_rates: Rates
    cpu_rates: Rates

    def view(self, tier: Tier) -> TierView:
        """One tier in sums."""
        return self.gpu if tier == GPU else self.cpu

    def forecast(self, tier: Tier, facts: RequestFacts) -> Forecast | None:
        """When one more request would be done there; None when nothing was learned or no engine is ready."""
        return forecast(self.view(tier), self.gpu_rates if tier == GPU else self.cpu_rates, facts)


_GPU_FIRST: Final[tuple[Tier, ...]] = (GPU, CPU)
_CPU_FIRST: Final[tuple[Tier, ...]] = (CPU, GPU)


def decide(routing: Routing, facts: RequestFacts, tiers: Tiers, *, continuable: bool = False) -> Placement:
    """Place one request. `continuable`: whether it could be continued from its tokens on another engine."""
    cpu = routing.cpu
    if not tiers.gpu.ready or not tiers.cpu.ready:
        return _one_sided(cpu, tiers)
    rule = matching_rule(routing, facts)
    if rule is not None and not tiers.view(rule.tier).full:
        return Placement(tiers=(rule.tier, other(rule.tier)), reason=Reason.RULE, rule=rule.name)
    if cpu.mode == "standby":
        return Placement(tiers=_gpu_then(cpu), reason=Reason.STANDBY_IDLE)
    if not saturated(cpu, tiers.gpu):
        if _relays(cpu, facts, continuable=continuable) and pressed(cpu, tiers.gpu) and not tiers.cpu.full:
            return Placement(tiers=_gpu_then(cpu), reason=Reason.GPU_SATURATED, relay_after=cpu.relay_after)
        return Placement(tiers=_gpu_then(cpu), reason=Reason.GPU_FREE)
    return _overflow(cpu, facts, tiers, continuable=continuable)


def matching_rule(routing: Routing, facts: RequestFacts) -> FieldRule | None:
    """The rule that a request meets, whether or not its tier has room."""
    return first_match(routing.rules, facts.field) if routing.rules else None


def saturated(cpu: CpuUse, gpu: TierView) -> bool:
    """Whether the GPU tier is under pressure by the policy's thresholds."""
    if gpu.kv_percent is not None and gpu.kv_percent > cpu.gpu_kv_percent:
        return True
    # One more request in a full tier would be one more that waits.
    return gpu.full and gpu.waiting + 1 >= cpu.gpu_waiting


def pressed(cpu: CpuUse, gpu: TierView) -> bool:
    """Whether the GPU tier is saturated, or was a moment ago: more requests wait than there is room for.

    A tier whose engines are bounded has a request look again only when there is room, and a leg that ended makes room itself.
    """
    return saturated(cpu, gpu) or gpu.waiting >= max(cpu.gpu_waiting, gpu.free)


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


def _one_sided(cpu: CpuUse, tiers: Tiers) -> Placement:
    if tiers.gpu.ready:
        return Placement(tiers=(GPU,), reason=Reason.ONLY_TIER)
    if tiers.cpu.ready and cpu.no_gpu_ready:
        return Placement(tiers=(CPU,), reason=Reason.NO_GPU)
    return Placement(tiers=(), reason=Reason.NONE_READY)


def _overflow(cpu: CpuUse, facts: RequestFacts, tiers: Tiers, *, continuable: bool) -> Placement:
    """The GPU tier is saturated: is the CPU tier better?"""
    stay = _gpu_then(cpu)
    if tiers.cpu.full:
        return Placement(tiers=stay, reason=Reason.CPU_FULL)
    limit, longest = facts.max_tokens, cpu.max_output_tokens
    if _relays(cpu, facts, continuable=continuable):
        return Placement(tiers=stay, reason=Reason.GPU_SATURATED, relay_after=cpu.relay_after)
    if longest and (limit is None or limit > longest):
        return Placement(tiers=stay, reason=Reason.ANSWER_TOO_LONG)
    here, there = tiers.forecast(GPU, facts), tiers.forecast(CPU, facts)
    if here is not None and there is not None and there.finish >= here.finish:
        return Placement(tiers=stay, reason=Reason.GPU_SOONER)
    return Placement(tiers=_CPU_FIRST, reason=Reason.GPU_SATURATED)


def decide_again(routing: Routing, tiers: Tiers) -> Placement:
    """Place what is left of a stream whose tokens of one leg are made: on the CPU tier while the GPU tier is saturated."""
    if tiers.cpu.ready and not tiers.cpu.full and pressed(routing.cpu, tiers.gpu):
        return Placement(tiers=_CPU_FIRST, reason=Reason.GPU_SATURATED)
    return Placement(tiers=_GPU_FIRST, reason=Reason.CPU_FULL if tiers.cpu.full else Reason.GPU_FREE)


def _relays(cpu: CpuUse, facts: RequestFacts, *, continuable: bool) -> bool:
    """Whether the CPU tier may continue an answer: one that is longer than what the GPU tier makes of it."""
    return cpu.mode == "relay" and continuable and (facts.max_tokens is None or facts.max_tokens > cpu.relay_after)


def _gpu_then(cpu: CpuUse) -> tuple[Tier, ...]:
    """The CPU tier takes what every GPU engine failed at, if it may stand in at all."""
    return _GPU_FIRST if cpu.no_gpu_ready else (GPU,)
