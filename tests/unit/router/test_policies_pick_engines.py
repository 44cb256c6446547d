"""The policies: which engine of several takes a request, as a function of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.choice import EngineGauges, Hold, Pick
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.features import Features
from mica_router.core.policies import pick_engine, prompt_prefix, rank
from mica_router.core.routes import Route, Service, ServiceKey
from mica_router.core.routing import Policy, Routing

ENGINES = tuple(Engine(endpoint=Endpoint("10.0.0.1", port)) for port in range(1, 6))


class View:
    """A load that does not move."""

    def __init__(self, counts: Mapping[int, int] | None = None, *, fitness: Mapping[Endpoint, float] | None = None) -> None:
        self._counts = {Endpoint("10.0.0.1", port): count for port, count in (counts or {}).items()}
        self._turn = -1
        self._random = Random(1)
        self.fitness: Mapping[Endpoint, float] = fitness or {}

    def in_flight(self, endpoint: Endpoint) -> int:
        return self._counts.get(endpoint, 0)

    def gauges(self, endpoint: Endpoint) -> EngineGauges | None:
        return None

    def turn(self) -> int:
        self._turn += 1
        return self._turn

    def held(self, key: ServiceKey) -> int:
        return 0

    def random(self) -> float:
        return self._random.random()


def asked(policy: Policy, *, body: bytes = b"{}", session: bytes | None = None) -> Features:
    service = Service(key=ServiceKey("a", "chat"), model="chat", engines=ENGINES, routing=Routing(policy=policy))
    headers = [(b"X-Session-Id", session)] if session is not None else []
    route = Route(public_name="chat", service=service, engine_model="chat")
    return Features(route, b"POST", "/v1/chat/completions", b"/v1/chat/completions", headers, body)


def picked(features: Features, view: View, candidates: Sequence[Engine] = ENGINES) -> Engine:
    result = pick_engine(features, candidates=candidates, load=view)
    assert isinstance(result, Pick)
    return result.engine


def test_the_least_loaded_engine_is_picked_and_equals_take_turns() -> None:
    assert picked(asked("least-inflight"), View({1: 5, 2: 5, 3: 4, 4: 5, 5: 5})) == ENGINES[2]
    view = View()
    assert [picked(asked("least-inflight"), view) for _ in range(10)] == [*ENGINES, *ENGINES]


def test_round_robin_takes_turns_whatever_the_load() -> None:
    view = View({1: 99})
    assert [picked(asked("round-robin"), view) for _ in range(10)] == [*ENGINES, *ENGINES]


def test_a_heavier_engine_takes_more() -> None:
    big, small = Engine(endpoint=Endpoint("10.0.0.1", 1), weight=4.0), Engine(endpoint=Endpoint("10.0.0.1", 2))
    assert picked(asked("least-inflight"), View({1: 3, 2: 1}), [big, small]) == big
    assert picked(asked("least-inflight"), View({1: 8, 2: 1}), [big, small]) == small


def test_two_choices_never_take_the_worst_of_all() -> None:
    view = View({1: 9})
    chosen = Counter(picked(asked("p2c"), view).endpoint.port for _ in range(400))
    assert chosen[1] == 0
    assert min(chosen[port] for port in (2, 3, 4, 5)) > 50


@given(st.binary(min_size=1, max_size=40), st.permutations(ENGINES), st.dictionaries(st.integers(1, 5), st.integers(0, 9)))
def test_every_router_sends_a_session_to_the_same_engine(session: bytes, order: list[Engine], counts: dict[int, int]) -> None:
    features = asked("session", session=session)
    assert picked(features, View(counts), order) == picked(features, View())


@pytest.mark.parametrize("policy", ["session", "prefix"])
@given(data=st.data(), key=st.binary(min_size=1, max_size=40), level=st.integers(0, 60))
def test_routers_with_the_same_ready_engines_agree_while_none_is_over_its_bound(
    policy: Policy, data: st.DataObject, key: bytes, level: int
) -> None:
    ready = data.draw(st.sets(st.sampled_from(ENGINES), min_size=1))
    features = asked(policy, session=key, body=b'{"model":"chat","prompt":"' + key + b'"}')

    def seen_by_one_router() -> Engine:
        # A fifth above the least loaded one is below every bound, which is a quarter above the mean.
        counts = {engine.endpoint.port: level + data.draw(st.integers(0, level // 5)) for engine in ready}
        return picked(features, View(counts), data.draw(st.permutations(sorted(ready, key=lambda engine: engine.endpoint))))

    assert seen_by_one_router() == seen_by_one_router()


@given(st.binary(max_size=40), st.permutations(ENGINES), st.dictionaries(st.integers(1, 5), st.integers(0, 60)))
def test_routers_that_see_the_same_load_agree_on_a_prefix_whatever_is_full(
    prompt: bytes, order: list[Engine], counts: dict[int, int]
) -> None:
    features = asked("prefix", body=b'{"prompt":"' + prompt)
    assert picked(features, View(counts), order) == picked(features, View(counts))


@given(st.binary(min_size=1, max_size=40), st.sampled_from(ENGINES))
def test_a_lost_engine_moves_its_own_sessions_only(session: bytes, lost: Engine) -> None:
    features = asked("session", session=session)
    before = picked(features, View())
    after = picked(features, View(), [engine for engine in ENGINES if engine != lost])
    assert after == before or before == lost


def test_sessions_spread_by_weight() -> None:
    engines = [Engine(endpoint=Endpoint("10.0.0.1", 1), weight=3.0), Engine(endpoint=Endpoint("10.0.0.1", 2))]
    owners = Counter(max(engines, key=lambda e: rank(b"%d" % n, e)).endpoint.port for n in range(4000))
    assert 0.70 < owners[1] / 4000 < 0.80


def test_a_prefix_stays_where_it_is_until_the_bound_and_then_has_one_other_home() -> None:
    features = asked("prefix", body=b'{"model": "chat", "messages": [{"role": "system", "content": "long"}]}')
    home = picked(features, View())
    assert picked(features, View({e.endpoint.port: 4 for e in ENGINES})) == home
    crowded = View({home.endpoint.port: 50})
    other = picked(features, crowded)
    assert other != home
    assert picked(features, crowded) == other


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), min_size=5, max_size=5))
def test_no_engine_is_sent_a_prefix_above_its_bound(prompt: bytes, counts: list[int]) -> None:
    view = View(dict(zip(range(1, 6), counts, strict=True)))
    chosen = picked(asked("prefix", body=b'{"prompt":"' + prompt), view)
    assert view.in_flight(chosen.endpoint) < 1.25 * (sum(counts) + 1) / 5 + 1


def test_the_prefix_begins_with_the_prompt_whatever_stands_before_it() -> None:
    one = prompt_prefix(b'{"temperature": 0, "messages": ["abc"]}', size=12)
    assert one == prompt_prefix(b'{"messages": ["xyz"]}', size=12) == b'"messages": '


@given(st.sampled_from(["auto", "round-robin", "least-inflight", "p2c", "session", "prefix"]), st.sets(st.sampled_from(ENGINES)))
def test_an_ejected_engine_is_taken_only_when_all_are(policy: Policy, ejected: set[Engine]) -> None:
    view = View(fitness=dict.fromkeys((engine.endpoint for engine in ejected), 0.0))
    chosen = picked(asked(policy, session=b"s"), view)
    assert chosen not in ejected or ejected == set(ENGINES)


def test_an_engine_on_its_way_back_gets_less() -> None:
    view = View({1: 0, 2: 5, 3: 5, 4: 5, 5: 5}, fitness={ENGINES[0].endpoint: 0.1})
    assert picked(asked("least-inflight"), view) != ENGINES[0]
    assert picked(asked("least-inflight"), View(dict.fromkeys(range(2, 6), 20), fitness=view.fitness)) == ENGINES[0]


def test_engines_at_their_bound_are_left_out_and_when_all_are_the_request_waits() -> None:
    bounded = [Engine(endpoint=engine.endpoint, max_in_flight=2) for engine in ENGINES[:2]]
    assert picked(asked("round-robin"), View({1: 2}), bounded) == bounded[1]
    assert pick_engine(asked("auto"), candidates=bounded, load=View({1: 2, 2: 2})) == Hold("saturated")
    assert pick_engine(asked("auto"), candidates=[], load=View()) == Hold("no_engine")
