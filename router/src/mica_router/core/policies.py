"""Which of several engines takes a request: the policies. Functions of values and of a view of the load.

* `round-robin`: in turn. `least-inflight`: the least in flight per weight, equals in turn. `p2c`: the better of two drawn at
  random (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001).
* `session`: rendezvous hashing (Thaler and Ravishankar, 1998) of the session header: every router with the same ready engines
  sends a session to the same one, and a lost engine moves its own sessions only. Without the header: `least-inflight`.
* `prefix`: the same order of preference over a hash of the first bytes of the body, with bounded loads (Mirrokni, Thorup and
  Zadimoghaddam, Consistent Hashing with Bounded Loads, 2017): an engine above `load_bound` times the mean is passed over.
* `auto`: `session`, which without the header is `least-inflight`.

Ejected engines are left out while others remain; one on its way back counts as proportionally smaller. When all are ejected, all
are candidates: refusing without trying helps nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from mica_router.core.choice import Hold, LoadView, Pick, Relay
from mica_router.core.engines import Engine
from mica_router.core.features import Features
from mica_router.core.routing import Policy

# What a named tuple's own constructor comes to, at half of its cost.
_new: Final = tuple.__new__
_NO_ENGINE: Final = Hold("no_engine")
_SATURATED: Final = Hold("saturated")
_Policy = Callable[[Sequence[Engine], Features, LoadView], Engine]


def pick_engine(features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold:
    """Apply the service's policy to the candidates that are sound and have room."""
    if load.fitness:
        candidates = _sound(candidates, load)
    for engine in candidates:
        if engine.max_in_flight:
            candidates = [e for e in candidates if not e.max_in_flight or load.in_flight(e.endpoint) < e.max_in_flight]
            if not candidates:
                return _SATURATED
            break
    if len(candidates) < 2:
        return Pick(candidates[0]) if candidates else _NO_ENGINE
    return _new(Pick, (_POLICIES[features.route.service.routing.policy](candidates, features, load), "policy"))


def _sound(candidates: Sequence[Engine], load: LoadView) -> Sequence[Engine]:
    fitness = load.fitness
    return [engine for engine in candidates if fitness.get(engine.endpoint, 1.0) > 0] or candidates


def _pressure(engine: Engine, load: LoadView) -> float:
    """Requests in flight per unit of capacity once this engine has taken one more."""
    size = engine.weight
    if load.fitness:
        size *= load.fitness.get(engine.endpoint, 1.0) or 1.0
    return (load.in_flight(engine.endpoint) + 1) / size


def _round_robin(candidates: Sequence[Engine], features: Features, load: LoadView) -> Engine:
    """In turn. One on its way back is passed over as often as it is unfit."""
    for _ in candidates:
        engine = candidates[load.turn() % len(candidates)]
        if load.random() < load.fitness.get(engine.endpoint, 1.0):
            return engine
    return candidates[load.turn() % len(candidates)]


def _least_in_flight(candidates: Sequence[Engine], features: Features, load: LoadView) -> Engine:
    # One pass without helpers: nearly every request comes by.
    fitness, in_flight, least = load.fitness, load.in_flight, math.inf
    equals: list[Engine] = []
    for engine in candidates:
        pressure = _pressure(engine, load) if fitness else (in_flight(engine.endpoint) + 1) / engine.weight
        if pressure < least:
            least, equals = pressure, [engine]
        elif pressure == least:
            equals.append(engine)
    return equals[0] if len(equals) == 1 else equals[load.turn() % len(equals)]


def _two_choices(candidates: Sequence[Engine], features: Features, load: LoadView) -> Engine:
    first = int(load.random() * len(candidates))
    second = int(load.random() * (len(candidates) - 1))
    one, other = candidates[first], candidates[second + (second >= first)]
    return one if _pressure(one, load) <= _pressure(other, load) else other


@lru_cache(maxsize=1024)
def _header_name(name: str) -> bytes:
    return name.lower().encode("latin-1", "replace")


def _session(candidates: Sequence[Engine], features: Features, load: LoadView) -> Engine:
    name, lookup = _header_name(features.route.service.routing.session_header), features.lookup
    session = features.header(name) if lookup is None else lookup.get(name)
    if not session:
        return _least_in_flight(candidates, features, load)
    return max(candidates, key=lambda engine: rank(session, engine))


def _prefix(candidates: Sequence[Engine], features: Features, load: LoadView) -> Engine:
    routing = features.route.service.routing
    key = prompt_prefix(features.body, size=routing.prefix_bytes)
    loads = [load.in_flight(engine.endpoint) for engine in candidates]
    weights = [engine.weight * (load.fitness.get(engine.endpoint, 1.0) or 1.0) for engine in candidates]
    per_weight = routing.load_bound * (sum(loads) + 1) / sum(weights)
    roomy = [e for e, now, weight in zip(candidates, loads, weights, strict=True) if now < math.ceil(per_weight * weight)]
    return max(roomy, key=lambda engine: rank(key, engine))


def rank(key: bytes, engine: Engine) -> float:
    """Weighted rendezvous score of an engine for a key; the highest wins. The same in every process."""
    endpoint = engine.endpoint
    digest = blake2b(key, digest_size=8, key=b"%s:%d" % (endpoint.host.encode()[-56:], endpoint.port)).digest()
    uniform = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -engine.weight / math.log(uniform) if uniform < 1 else math.inf


_PROMPT_FIELDS: Final = (b'"messages"', b'"prompt"', b'"input"', b'"query"')


def prompt_prefix(body: bytes, *, size: int) -> bytes:
    """The first `size` bytes of what an engine caches: from the prompt's field on, whatever fields come before it."""
    starts = [found for field in _PROMPT_FIELDS if (found := body.find(field)) >= 0]
    start = min(starts, default=0)
    return body[start : start + size]


_POLICIES: Final[dict[Policy, _Policy]] = {
    "auto": _session,
    "round-robin": _round_robin,
    "least-inflight": _least_in_flight,
    "p2c": _two_choices,
    "session": _session,
    "prefix": _prefix,
}


class PolicyChooser:
    """`Chooser` without tiers."""

    def choose(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold:
        """Every candidate is as good as its load."""
        return pick_engine(features, candidates=candidates, load=load)

    def choose_to_resume(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Pick | Hold:
        """The same."""
        return pick_engine(features, candidates=candidates, load=load)

    def choose_to_relay(self, features: Features, *, candidates: Sequence[Engine], load: LoadView) -> Relay | Hold:
        """The same, to the end."""
        found = pick_engine(features, candidates=candidates, load=load)
        return Relay(found, 0) if isinstance(found, Pick) else found
