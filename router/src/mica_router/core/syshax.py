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
from mica_router.core.tiers_decide import Placement, Reason, Tiers, decide_again, matching_rule

_TOO_SLOW_TPS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdDecider:
    """Generation 1. `max_num_seqs` None: any waiting request makes the GPU tier busy. Thresholds in percent and tokens/s.

    Where the service relays, the CPU tier does not take whole answers but legs of `token_limit` tokens of those that the GPU tier
    began.
    """

    max_num_seqs: int | None = 256
    gpu_cache_threshold: float = 90.0
    cpu_throughput_threshold: float = 10.0
    token_limit_multiplier: float = 4.0
    token_limit_min: int = 10
    token_limit_max: int = 100

    def place(self, routing: Routing, facts: RequestFacts, tiers: Tiers, *, continuable: bool = False) -> Placement:
        """Place one request; of `routing`, the rules are used and where a stream is cut."""
        placement = _by_rule_or_side(routing, facts, tiers)
        if placement is not None:
            return placement
        placement, limit, first = self._by_metrics(tiers), facts.max_tokens, routing.cpu.relay_after
        if continuable and placement.tiers[:1] == (CPU,) and (limit is None or limit > first):
            return placement._replace(tiers=(GPU, CPU), relay_after=first)
        return placement

    def place_again(self, routing: Routing, tiers: Tiers) -> Placement:
        """The rest of a stream: to the CPU tier for one more hop, or to the GPU tier, which cannot be too busy to keep it."""
        if not tiers.cpu.ready:
            return Placement(tiers=(GPU,), reason=Reason.ONLY_TIER)
        placement = self._by_metrics(tiers) if tiers.gpu.ready else Placement(tiers=(CPU,), reason=Reason.NO_GPU)
        if placement.tiers[:1] == (CPU,):
            return placement._replace(relay_after=self.token_limit(throughput(tiers.cpu, tiers) or 0.0))
        return Placement(tiers=(GPU, CPU), reason=placement.reason)

    def token_limit(self, cpu_tps: float) -> int:
        """Tokens that the CPU tier produces before it is decided again."""
        wanted = int(round(cpu_tps * self.token_limit_multiplier, -1))
        return min(max(wanted, self.token_limit_min), self.token_limit_max)

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

    def place(self, routing: Routing, facts: RequestFacts, tiers: Tiers, *, continuable: bool = False) -> Placement:
        """Place one request; only the rules of `routing` are used. Nothing is relayed."""
        return _by_rule_or_side(routing, facts, tiers) or self._by_speed(tiers)

    def place_again(self, routing: Routing, tiers: Tiers) -> Placement:
        """Streams that were cut before the configuration changed go on where they would by default."""
        return decide_again(routing, tiers)

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
            token_limit_multiplier=use.token_limit_multiplier,
            token_limit_min=use.token_limit_min,
            token_limit_max=use.token_limit_max,
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
