"""`Chooser` over two tiers: the tier is decided first, then the service's policy picks among that tier's engines.

A service that has engines of one tier only, and no CPU use to respect, costs one look at each candidate. What is decided is in
`tiers_decide` (or `syshax`), whose values are made here of candidates and load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, Protocol

from mica_router.core.choice import Hold, LoadView, Pick, Refusal, Relay
from mica_router.core.engines import Engine, Kind, Tier
from mica_router.core.errors import ApiError
from mica_router.core.facts import RequestFacts
from mica_router.core.features import Features
from mica_router.core.policies import pick_engine
from mica_router.core.rates import Rates
from mica_router.core.resume.refusals import Refused
from mica_router.core.resume.request import judge
from mica_router.core.routes import ServiceKey
from mica_router.core.routing import Routing
from mica_router.core.syshax import decider_of
from mica_router.core.tiers import CPU, GPU, EngineView, tier_view
from mica_router.core.tiers_decide import Placement, Reason, Tiers, decide, decide_again
from mica_router.core.tiers_explain import explain_placement, words

STALE_SECONDS: Final = 5.0
"""Age from which an engine's numbers are left out of decisions."""

_TIER: Final = attrgetter("tier")
_CAPACITY: Final[Mapping[Kind, int]] = {"vllm": 256, "llamacpp": 4, "other": 64}
"""Requests that an engine of unknown capacity is taken to work on at once: the programs' own defaults."""

_NOWHERE: Final = Placement(tiers=(), reason=Reason.NONE_READY)
RateBook = Callable[[ServiceKey, Tier], Rates]


class Decider(Protocol):
    """Places a request on tiers."""

    def place(self, routing: Routing, facts: RequestFacts, tiers: Tiers, *, continuable: bool = False) -> Placement:
        """Pure. `continuable`: its stream can be relayed."""

    def place_again(self, routing: Routing, tiers: Tiers) -> Placement:
        """The rest of a stream that is relayed."""


class PredictingDecider:
    """`tiers_decide`, the default."""

    def place(self, routing: Routing, facts: RequestFacts, tiers: Tiers, *, continuable: bool = False) -> Placement:
        """See tiers_decide.decide."""
        return decide(routing, facts, tiers, continuable=continuable)

    def place_again(self, routing: Routing, tiers: Tiers) -> Placement:
        """See tiers_decide.decide_again."""
        return decide_again(routing, tiers)


def _nothing_learned(service: ServiceKey, tier: Tier) -> Rates:
    return Rates()


@dataclass(frozen=True, slots=True)
class TierChooser:
    """`Chooser`. `rates` says what was learned of a tier of a service, `decider` places requests of services that do not say
    who does; engines' numbers that are `stale` seconds old are not used."""

    rates: RateBook = _nothing_learned
    decider: Decider = field(default_factory=PredictingDecider)
    stale: float = STALE_SECONDS

    def choose(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Relay | Hold | Refusal:
        """Pick an engine of the tier that is decided for, or wait for it."""
        if not needs_metrics(candidates):
            return pick_engine(features, candidates=candidates, load=load)
        by_tier = _by_tier(candidates)
        placement = self._place(features, by_tier, self._tiers(features, by_tier, load))
        if placement.reason is Reason.BUSY:
            return _busy(features)
        if not placement.tiers:
            return Hold(placement.reason.value)
        # A tier without room is waited for: to go elsewhere would have been decided. What failed is tried no more, so that the
        # other tier's turn comes when this one has no candidate left.
        picked = pick_engine(features, candidates=by_tier[placement.tiers[0]], load=load)
        if not isinstance(picked, Pick):
            return picked
        picked = picked._replace(reason=placement.reason.value)
        return Relay(picked, placement.relay_after) if placement.relay_after else picked

    def choose_to_resume(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold | Refusal:
        """The same, to the end."""
        found = self.choose(features, candidates=candidates, load=load)
        return found.pick if isinstance(found, Relay) else found

    def choose_to_relay(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Relay | Hold | Refusal:
        """An engine of the CPU tier while that is better, else one of the GPU tier."""
        by_tier = _by_tier(candidates)
        service = features.route.service
        placement = self._decider(service.routing).place_again(service.routing, self._tiers(features, by_tier, load))
        for tier in placement.tiers:
            found = pick_engine(features, candidates=by_tier[tier], load=load)
            if isinstance(found, Pick):
                return Relay(found, placement.relay_after if tier == CPU else 0)
        return Hold(placement.reason.value)

    def explain(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> dict[str, Any]:
        """JSON-able account of where it would go and why. Changes nothing but whose turn it is."""
        by_tier = _by_tier(candidates)
        tiers, facts, routing = self._tiers(features, by_tier, load), facts_of(features), features.route.service.routing
        placement = self._place(features, by_tier, tiers)
        chosen = self.choose(features, candidates=candidates, load=load)
        return {
            **_chosen(chosen, placement),
            "policy": routing.policy,
            "candidates": [_candidate(engine, load, stale=self.stale) for engine in candidates],
            "tiers": explain_placement(routing, facts, tiers, placement),
        }

    def _place(self, features: Features, by_tier: Mapping[Tier, Sequence[Engine]], tiers: Tiers) -> Placement:
        service = features.route.service
        if not by_tier[CPU]:
            return Placement(tiers=(GPU,), reason=Reason.ONLY_TIER) if by_tier[GPU] else _NOWHERE
        if not by_tier[GPU] and any(engine.tier == GPU for engine in service.engines):
            # The ready GPU engines were tried, or do not fit a stream that is continued.
            return Placement(tiers=(CPU,), reason=Reason.NO_GPU)
        routing, decider = service.routing, self._decider(service.routing)
        if routing.cpu.mode == "relay" and _continuable(features, by_tier):
            return decider.place(routing, facts_of(features), tiers, continuable=True)
        return decider.place(routing, facts_of(features), tiers)

    def _decider(self, routing: Routing) -> Decider:
        use = routing.decider
        return self.decider if use is None else decider_of(use) or self.decider

    def _tiers(self, features: Features, by_tier: Mapping[Tier, Sequence[Engine]], load: LoadView) -> Tiers:
        key = features.route.service.key
        gpu, cpu = by_tier[GPU], by_tier[CPU]
        if load.fitness:
            sound = [[engine for engine in engines if _sound(engine, load)] for engines in (gpu, cpu)]
            # When all are ejected, all are tried: refusing without trying helps nobody.
            gpu, cpu = sound if any(sound) else (gpu, cpu)
        view = tier_view([_view(engine, load, stale=self.stale) for engine in gpu])
        if gpu and (held := load.held(key)):
            # Engines that are bounded let nobody wait: the router does.
            view = view._replace(waiting=view.waiting + held)
        return Tiers(
            gpu=view,
            cpu=tier_view([_view(engine, load, stale=self.stale) for engine in cpu]),
            gpu_rates=self.rates(key, GPU),
            cpu_rates=self.rates(key, CPU),
        )


def facts_of(features: Features) -> RequestFacts:
    """The request as deciding sees it."""
    return RequestFacts(path=features.path, body=features.body, headers=features.headers)


def capacity(engine: Engine) -> int:
    """Requests that an engine works on at once, as far as is known."""
    return engine.max_in_flight or _CAPACITY[engine.kind]


def needs_metrics(engines: Sequence[Engine]) -> bool:
    """Whether a service's decisions look at what its engines say."""
    # A generator would cost as much as a request's whole choice.
    return CPU in map(_TIER, engines)


def _continuable(features: Features, by_tier: Mapping[Tier, Sequence[Engine]]) -> bool:
    """Whether the request is one that can be resumed, and engines of both tiers mean the same by token ids."""
    if not features.streams or not features.route.service.routing.resume:
        return False
    pairs = ([after.takes_over(before) for after in by_tier[CPU]] for before in by_tier[GPU])
    return any(any(pair) for pair in pairs) and not isinstance(judge(features.path, features.body), Refused)


def _by_tier(candidates: Sequence[Engine]) -> Mapping[Tier, list[Engine]]:
    return {tier: [engine for engine in candidates if engine.tier == tier] for tier in (GPU, CPU)}


def _sound(engine: Engine, load: LoadView) -> bool:
    return load.fitness.get(engine.endpoint, 1.0) > 0


def _view(engine: Engine, load: LoadView, *, stale: float) -> EngineView:
    endpoint, room = engine.endpoint, float(capacity(engine))
    if load.fitness:
        room *= load.fitness.get(endpoint, 1.0) or 1.0
    gauges = load.gauges(endpoint)
    return EngineView(load.in_flight(endpoint), room, gauges if gauges is not None and gauges.age <= stale else None)


def _busy(features: Features) -> Refusal:
    error = ApiError(
        status=429,
        type="rate_limit_error",
        code="busy",
        message=f"All engines of the model '{features.route.public_name}' are busy. Try again in 1 s.",
        retry_after=1,
    )
    return Refusal(Reason.BUSY.value, error)


def _chosen(chosen: Pick | Relay | Hold | Refusal, placement: Placement) -> dict[str, Any]:
    if isinstance(chosen, Relay):
        chosen = chosen.pick
    if isinstance(chosen, Pick):
        engine = chosen.engine
        return {"verdict": "send", "engine": engine.endpoint.authority, "tier": engine.tier, "why": words(placement)}
    verdict = "hold" if isinstance(chosen, Hold) else "refuse"
    return {"verdict": verdict, "engine": None, "tier": None, "why": f"{words(placement)} ({chosen.reason})"}


def _candidate(engine: Engine, load: LoadView, *, stale: float) -> dict[str, Any]:
    """One engine with its load, and why it would be left out."""
    gauges, fitness = load.gauges(engine.endpoint), load.fitness.get(engine.endpoint, 1.0)
    in_flight = load.in_flight(engine.endpoint)
    return {
        "engine": engine.endpoint.authority,
        "tier": engine.tier,
        "kind": engine.kind,
        "inFlight": in_flight,
        "capacity": capacity(engine),
        "fitness": round(fitness, 3),
        "metrics": None if gauges is None else gauges._asdict(),
        "excluded": _excluded(engine, in_flight=in_flight, fitness=fitness),
        "metricsUsed": gauges is not None and gauges.age <= stale,
    }


def _excluded(engine: Engine, *, in_flight: int, fitness: float) -> str | None:
    if fitness <= 0:
        return "ejected: it failed a moment ago, and nothing is sent there until it answers again"
    if engine.max_in_flight and in_flight >= engine.max_in_flight:
        return f"full: {in_flight} of at most {engine.max_in_flight} requests are there"
    return None
