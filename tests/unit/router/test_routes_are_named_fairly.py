"""The naming rules of the route table: who serves a bare name, and what nobody can take over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.engines import Endpoint
from mica_router.core.pick import pick_endpoint
from mica_router.core.routes import Service, ServiceKey, build_table


def service(namespace: str, name: str, *, model: str | None = None, created: int = 0) -> Service:
    return Service(key=ServiceKey(namespace, name), model=model or name, created=created)


def test_the_oldest_service_serves_a_bare_name_and_the_other_stays_reachable() -> None:
    old, young = service("b", "chat", created=1), service("a", "chat", created=2)
    table = build_table([young, old])
    assert table.for_model("chat") == table.for_path(namespace="b", name="chat")
    other = table.for_model("a/chat")
    assert other is not None
    assert other.service == young
    assert [route.public_name for route in table.listed] == ["a/chat", "chat"]


def test_services_of_one_age_are_ordered_by_namespace_and_name() -> None:
    table = build_table([service("b", "x", model="m"), service("a", "z", model="m"), service("a", "y", model="m")])
    owner = table.for_model("m")
    assert owner is not None
    assert owner.service.key == ServiceKey("a", "y")


def test_a_bare_name_cannot_take_another_services_qualified_name() -> None:
    victim = service("team-a", "chat", created=9)
    table = build_table([service("evil", "thief", model="team-a/chat", created=1), victim])
    route = table.for_model("team-a/chat")
    assert route is not None
    assert route.service == victim
    thief = table.for_model("evil/thief")
    assert thief is not None
    assert thief.public_name == "evil/thief"


def test_a_younger_owner_takes_over_when_the_older_is_gone() -> None:
    table = build_table([service("a", "chat", created=2)])
    route = table.for_model("chat")
    assert route is not None
    assert route.public_name == "chat"


names = st.sampled_from(["a", "b", "c", "a/b", "b/c"])
services = st.lists(
    st.builds(
        lambda namespace, name, model, created: service(namespace, name, model=model, created=created),
        st.sampled_from("abc"),
        st.sampled_from("abc"),
        names,
        st.integers(0, 3),
    ),
    unique_by=lambda s: s.key,
)


@given(services, st.randoms())
def test_the_table_does_not_depend_on_the_order_of_services(found: list[Service], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert build_table(shuffled) == build_table(found)


@given(services)
def test_every_service_has_one_unique_public_name_that_leads_to_it(found: list[Service]) -> None:
    table = build_table(found)
    assert len(table.listed) == len(found)
    assert len({route.public_name for route in table.listed}) == len(found)
    for route in table.listed:
        assert table.for_model(route.public_name) == route
        assert table.for_model(route.service.key.qualified) == route


ENDPOINTS = tuple(Endpoint("10.0.0.1", port) for port in range(1, 5))


def test_the_least_loaded_engine_is_picked() -> None:
    load = dict.fromkeys(ENDPOINTS, 5) | {ENDPOINTS[2]: 4}
    assert pick_endpoint(ENDPOINTS, in_flight=load, turn=0) == ENDPOINTS[2]


def test_equals_take_turns() -> None:
    assert [pick_endpoint(ENDPOINTS, in_flight={}, turn=turn) for turn in range(8)] == [*ENDPOINTS, *ENDPOINTS]


def test_a_suspect_is_the_last_resort() -> None:
    two = ENDPOINTS[:2]
    assert pick_endpoint(two, in_flight={two[1]: 9}, turn=0, suspects={two[0]}) == two[1]
    assert pick_endpoint(two, in_flight={}, turn=0, suspects={two[0]}, tried={two[1]}) == two[0]


@given(st.sets(st.sampled_from(ENDPOINTS)), st.dictionaries(st.sampled_from(ENDPOINTS), st.integers(0, 9)), st.integers(0, 99))
def test_what_was_tried_is_never_picked_again(tried: set[Endpoint], load: dict[Endpoint, int], turn: int) -> None:
    picked = pick_endpoint(ENDPOINTS, in_flight=load, turn=turn, tried=tried)
    assert (picked is None) == (tried == set(ENDPOINTS))
    assert picked not in tried


def test_ipv6_hosts_are_bracketed_in_the_host_header() -> None:
    assert Endpoint("fd00::1", 80).authority == "[fd00::1]:80"
