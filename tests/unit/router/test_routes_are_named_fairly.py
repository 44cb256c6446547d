"""The naming rules of the route table: who serves a bare name, and what nobody can take over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.engines import Endpoint
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


def test_adapters_and_aliases_lead_to_their_service_and_take_nothing_from_a_model() -> None:
    chat = Service(key=ServiceKey("a", "chat"), model="chat", created=1, aliases=("gpt", "other"), adapters=("sql", "chat"))
    other = service("b", "other", created=2)
    table = build_table([chat, other])
    gpt, sql, taken = table.for_model("gpt"), table.for_model("sql"), table.for_model("a/chat/chat")
    assert gpt is not None and sql is not None and taken is not None
    assert (gpt.engine_model, sql.engine_model, taken.engine_model) == ("chat", "sql", "chat")
    bare = table.for_model("other")
    assert bare is not None
    assert bare.service == other
    assert [route.public_name for route in table.listed] == ["a/chat/chat", "chat", "other", "sql"]


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


def test_ipv6_hosts_are_bracketed_in_the_host_header() -> None:
    assert Endpoint("fd00::1", 80).authority == "[fd00::1]:80"
