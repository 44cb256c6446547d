"""API keys become hashes or a problem in words; names that an older service has are reported."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.model_names import Claim, name_owners, shadowed_names
from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_operator.core.decide import Plan
from mica_operator.core.keys import hash_keys
from mica_operator.core.views import KeyHashes, Observed
from mica_router.core.routes import Service, ServiceKey, build_table

LONG = "k" * 40


def _secret(**values: str) -> dict[str, dict[str, str]]:
    return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}}


def test_every_value_is_a_key_and_only_its_hash_is_kept() -> None:
    found = hash_keys("keys", _secret(one=LONG, two=f"{LONG}2\n"))
    assert set(found.hashes) == {hashlib.sha256(key).hexdigest() for key in (LONG.encode(), f"{LONG}2".encode())}
    assert found.problem == "" and LONG not in repr(found)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, "there is no Secret keys"),
        ({}, "has no data"),
        (_secret(a="short", b=LONG), "the value a of the Secret keys is shorter than 20 bytes"),
        ({"data": {"a": "%%%"}}, "shorter"),
    ],
)
def test_a_secret_without_usable_keys_is_a_problem_in_words(secret: dict[str, dict[str, str]] | None, words: str) -> None:
    found = hash_keys("keys", secret)
    assert words in found.problem and found.hashes == ()


def test_the_status_carries_the_hashes_or_says_that_all_is_refused(
    observe: Callable[..., Observed],
    service: Callable[..., InferenceService],
    plan_of: Callable[[Observed], Plan],
    the: Callable[[Plan, str], WantedCondition],
) -> None:
    guarded = observe(1, service=service(routing={"apiKeySecretRef": {"name": "keys"}}))
    plan = plan_of(replace(guarded, keys=KeyHashes(hashes=("ab",))))
    assert plan.status.api_key_hashes == ("ab",) and the(plan, "KeysRead").status == "True"
    plan = plan_of(replace(guarded, keys=KeyHashes(problem="there is no Secret keys")))
    assert "until then every request is refused" in the(plan, "KeysRead").message
    assert "KeysRead" not in {c.type for c in plan_of(observe(1)).status.conditions}


def test_a_name_that_an_older_service_has_is_reported(
    observe: Callable[..., Observed], plan_of: Callable[[Observed], Plan], the: Callable[[Plan, str], WantedCondition]
) -> None:
    plan = plan_of(replace(observe(1), shadowed=(("chat", "team-a/chat"),)))
    words = the(plan, "NameShadowed").message
    assert "chat belongs to team-a/chat, which is older" in words and "as ml/tiny" in words
    assert "NameShadowed" not in {c.type for c in plan_of(observe(1)).status.conditions}


Names = st.sampled_from(["a", "b", "x/a", "y/b", "x/a/l", "l"])
Claims = st.lists(
    st.builds(
        Claim,
        namespace=st.sampled_from("xy"),
        name=st.sampled_from("ab"),
        created=st.integers(0, 3).map(str),
        model=Names,
        aliases=st.lists(Names, max_size=2, unique=True).map(tuple),
        adapters=st.lists(st.sampled_from(["l", "a", "m"]), max_size=2, unique=True).map(tuple),
    ),
    unique_by=lambda claim: (claim.namespace, claim.name),
)


@given(Claims)
def test_what_is_reported_is_how_the_router_routes(claims: list[Claim]) -> None:
    table = build_table(
        Service(
            key=ServiceKey(claim.namespace, claim.name),
            model=claim.model,
            created=int(claim.created),
            aliases=claim.aliases,
            adapters=claim.adapters,
        )
        for claim in claims
    )
    assert {name: route.service.key.qualified for name, route in table.by_model.items()} == dict(name_owners(claims))


@given(Claims)
def test_the_oldest_service_is_shadowed_only_by_names_that_nobody_can_take(claims: list[Claim]) -> None:
    for claim in claims:
        for name, owner in shadowed_names(claims, claim):
            assert owner != claim.qualified and name in claim.names
    if claims:
        oldest = min(claims, key=lambda claim: (claim.created, claim.namespace, claim.name))
        reserved = {name for c in claims for name in (c.qualified, *(f"{c.qualified}/{adapter}" for adapter in c.adapters))}
        taken = {name for name, _ in shadowed_names(claims, oldest)}
        assert oldest.model not in taken - reserved
