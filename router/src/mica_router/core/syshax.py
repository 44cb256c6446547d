"""sysHAX's own decision rules, for those who move from it: selectable in the stand-alone mode instead of `tiers_decide`.

Generation 1 (0.2.0) compares the engines' metrics with thresholds, generation 2 (0.2.1 and later) compares counts and speeds that
the router sees itself. Both are written from their published behaviour, with two differences that are faults there: "busy" is an
answer (the caller refuses with 429 or queues), and a number that is unknown is not taken for zero where that would change sides.
Field rules come before either. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mica_router.core.facts import RequestFacts
from mica_router.core.routing import DeciderUse, Routing
from mica_router.core.tiers import CPU, GPU, TIERS, TierView, other
from mica_router.core.tiers_decide import Placement, Reason, Tiers, matching_rule

_TOO_SLOW_TPS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdDecider:
    """Generation 1. `max_num_seqs` None: any waiting request makes the GPU tier busy. Thresholds in percent and tokens/s."""

    max_num_seqs: int | None = 256
    gpu_cache_threshold: float = 90.0
    cpu_throughput_threshold: float = 10.0

    def place(self, routing: Routing, facts: RequestFacts, tiers: Tiers) -> Placement:
        """Place one request; only the rules of `routing` are used."""
        return _by_rule_or_side(routing, facts, tiers) or self._by_metrics(tiers)

    def _by_metrics(self, tiers: Tiers) -> Placement:
        if not self._gpu_busy(tiers.gpu):
            return Placement(tiers=(GPU, CPU), reason=Reason.GPU_FREE)
        # Current engines do not say their throughput; what was learned of the tier stands in for it.
        cpu_tps = throughput(tiers.cpu, tiers)
        slow = cpu_tps is not None and cpu_tps < self.cpu_throughput_threshold
        if slow and tiers.cpu.busy >= 1:
            return Placement(tiers=(), reason=Reason.BUSY)
        if self.max_num_seqs is not None and tiers.cpu.busy >= self.max_num_seqs:
            return Placement(tiers=(), reason=Reason.BUSY)
        return Placement(tiers=(CPU, GPU), reason=Reason.GPU_SATURATED)

    def _gpu_busy(self, gpu: TierView) -> bool:
        running = gpu.busy - gpu.waiting
        if gpu.kv_percent is not None and gpu.kv_percent > self.gpu_cache_threshold:
            return True
        if self.max_num_seqs is not None:
            return running >= self.max_num_seqs
        return running > 0 and gpu.waiting > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputDecider:
    """Generations 2 and 3. `cpu_max_batch_size`: requests that the CPU tier takes at once."""

    cpu_max_batch_size: int = 20

    def place(self, routing: Routing, facts: RequestFacts, tiers: Tiers) -> Placement:
        """Place one request; only the rules of `routing` are used."""
        return _by_rule_or_side(routing, facts, tiers) or self._by_speed(tiers)

    def _by_speed(self, tiers: Tiers) -> Placement:
        gpu, cpu = tiers.gpu, tiers.cpu
        if gpu.in_flight == 0:
            return Placement(tiers=(GPU, CPU), reason=Reason.GPU_FREE)
        if cpu.in_flight == 0:
            return Placement(tiers=(CPU, GPU), reason=Reason.BALANCE)
        if cpu.in_flight >= self.cpu_max_batch_size:
            return Placement(tiers=(GPU, CPU), reason=Reason.CPU_FULL)
        gpu_each, cpu_each = per_request(gpu, tiers), per_request(cpu, tiers)
        nothing_known = gpu_each < _TOO_SLOW_TPS and cpu_each < _TOO_SLOW_TPS
        to_gpu = gpu.in_flight <= cpu.in_flight if nothing_known else gpu_each >= cpu_each
        first = GPU if to_gpu else CPU
        return Placement(tiers=(first, other(first)), reason=Reason.BALANCE)


Decider = ThresholdDecider | ThroughputDecider


@lru_cache(maxsize=256)
def decider_of(use: DeciderUse) -> Decider | None:
    """The decider that is asked for; None: the default one, which predicts."""
    if use.policy == "thresholds":
        return ThresholdDecider(
            max_num_seqs=use.max_num_seqs,
            gpu_cache_threshold=use.gpu_cache_threshold,
            cpu_throughput_threshold=use.cpu_throughput_threshold,
        )
    return ThroughputDecider(cpu_max_batch_size=use.cpu_max_batch_size) if use.policy == "balance" else None


def throughput(view: TierView, tiers: Tiers) -> float | None:
    """Tokens per second that a tier produces: what its engines say, else what was learned at its present load."""
    if view.generation_rate is not None:
        return view.generation_rate
    rates = tiers.gpu_rates if view is tiers.gpu else tiers.cpu_rates
    running = max(view.busy, 1)
    step = rates.decode.at(running / max(view.engines, 1))
    return running / step if step else None


def per_request(view: TierView, tiers: Tiers) -> float:
    """Tokens per second of one request there; 0 when nothing is known."""
    return (throughput(view, tiers) or 0.0) / max(view.in_flight, 1)


def _by_rule_or_side(routing: Routing, facts: RequestFacts, tiers: Tiers) -> Placement | None:
    """What precedes both generations: a tier that is not there, and field rules whose tier has room."""
    sides = [tier for tier in TIERS if tiers.view(tier).ready]
    if not sides:
        return Placement(tiers=(), reason=Reason.NONE_READY)
    if len(sides) == 1:
        return Placement(tiers=(sides[0],), reason=Reason.ONLY_TIER)
    rule = matching_rule(routing, facts)
    if rule is None or tiers.view(rule.tier).full:
        return None
    return Placement(tiers=(rule.tier, other(rule.tier)), reason=Reason.RULE, rule=rule.name)
