"""Field rules: every operator, what a field is, which rule wins, and what a bad rule is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_router.core.facts import RequestFacts
from mica_router.core.rules import RuleError, first_match, parse_rules

Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def facts(body: dict[str, Any], *, path: str = "/v1/chat/completions", **headers: str) -> RequestFacts:
    pairs = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return RequestFacts(path=path, body=msgspec.json.encode(body), headers=pairs)


def rule(conditions: dict[str, Any], *, device: str = "CPU", priority: int = 0, name: str = "r") -> dict[str, Any]:
    return {"name": name, "priority": priority, "conditions": conditions, "action": {"device": device}}


def matches(conditions: dict[str, Any], body: dict[str, Any], **headers: str) -> bool:
    return first_match(parse_rules([rule(conditions)]), facts(body, **headers).field) is not None


@pytest.mark.parametrize(
    ("comparison", "meeting", "missing"),
    [
        ({"gte": 1024}, [1024, 2000.5], [1023, "long", True, None, [1]]),
        ({"lte": 128}, [128, 1, -1], [129, "short", False, None]),
        ({"gt": 5}, [5.5, 6], [5, "x", None]),
        ({"lt": 5}, [4.9], [5, True, None]),
        ({"eq": 0}, [0, 0.0], [False, "0", None, 1]),
        ({"eq": True}, [True], [1, False, "true", None]),
        ({"eq": "a"}, ["a"], ["A", None, ["a"]]),
        ({"in": ["a", 1]}, ["a", 1, 1.0], ["b", True, None]),
        ({"min_count": 2}, [[1, 2], [1, 2, 3]], [[1], "ab", 2, None]),
        ({"max_count": 2}, [[], [1, 2]], [[1, 2, 3], "ab", 1, None]),
        ({"exists": True}, [0, False, "", []], [None]),
        ({"exists": False}, [None], [0, "", []]),
        ({"gte": 1, "lt": 3}, [1, 2], [0, 3]),
    ],
)
def test_an_operator_compares_a_field(comparison: dict[str, Any], meeting: list[Any], missing: list[Any]) -> None:
    for value in meeting:
        assert matches({"x": comparison}, {"x": value}), value
    for value in missing:
        assert not matches({"x": comparison}, {"x": value}), value


def test_an_absent_field_meets_only_that_it_does_not_exist() -> None:
    assert matches({"tools": {"exists": False}}, {})
    for comparison in ({"lte": 10**9}, {"eq": 0}, {"in": [0]}, {"max_count": 9}, {"exists": True}):
        assert not matches({"tools": comparison}, {}), comparison


@given(Json, Json)
def test_equality_is_that_of_json(left: Any, right: Any) -> None:
    if right is not None:
        same = msgspec.json.encode(left, order="sorted") == msgspec.json.encode(right, order="sorted")
        assert matches({"x": {"eq": right}}, {"x": left}) or not same


@given(st.dictionaries(st.text(), Json, max_size=4))
def test_reading_any_body_never_fails(body: dict[str, Any]) -> None:
    found = facts(body)
    for operator, value in {"gte": 1, "eq": 1, "in": [1], "min_count": 1, "exists": True}.items():
        for field in (*body, "max_tokens", "messages"):
            first_match(parse_rules([rule({field or "x": {operator: value}})]), found.field)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"max_tokens": "\xff"}', b"[" * 5000])
def test_a_body_that_is_no_object_has_no_fields(body: bytes) -> None:
    found = RequestFacts(path="/v1/audio/transcriptions", body=body)
    assert found.field("max_tokens") is None and found.field("prompt_tokens") == -(-len(body) // 4)


def test_conditions_hold_together() -> None:
    both = {"max_tokens": {"lte": 128}, "stream": {"eq": True}}
    assert matches(both, {"max_tokens": 100, "stream": True})
    assert not matches(both, {"max_tokens": 100, "stream": False})


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_max_tokens_is_found_under_every_name_that_it_has(name: str) -> None:
    assert matches({"max_tokens": {"eq": 7}}, {name: 7})


def test_a_field_inside_another_is_written_with_a_dot() -> None:
    assert matches({"response_format.type": {"eq": "json_schema"}}, {"response_format": {"type": "json_schema"}})
    assert matches({"a.b": {"eq": 1}}, {"a.b": 1, "a": {"b": 2}})
    for body in ({"a": {}}, {"a": 1}, {}, {"a": [1]}):
        assert matches({"a.b.c": {"exists": False}}, body)


def test_path_headers_and_the_length_of_the_prompt_are_fields() -> None:
    assert first_match(parse_rules([rule({"path": {"eq": "/v1/embeddings"}})]), facts({}, path="/v1/embeddings").field)
    assert matches({"header:X-Class": {"eq": "batch"}}, {}, **{"x-CLASS": "batch"})
    assert matches({"header:x-weight": {"gte": 2}}, {}, **{"X-Weight": "2.5"})
    assert not matches({"header:x-class": {"exists": True}}, {})
    assert matches({"prompt_tokens": {"gte": 1000}}, {"prompt": "word " * 800})
    assert not matches({"prompt_tokens": {"gte": 1000}}, {"prompt": "short", "prompt_tokens": 5000})


def test_the_highest_priority_wins_and_the_first_among_equals() -> None:
    rules = parse_rules(
        [
            rule({"x": {"exists": True}}, name="low", priority=1),
            rule({"x": {"exists": True}}, name="first", priority=5, device="GPU"),
            rule({"x": {"exists": True}}, name="second", priority=5),
            rule({"y": {"exists": True}}, name="elsewhere", priority=9),
        ]
    )
    found = first_match(rules, facts({"x": 1}).field)
    assert found is not None and found.name == "first" and found.tier == "gpu"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "must be a list"),
        ([1], r"routing.rules\[0\] must be a mapping"),
        ([{**rule({"x": {"eq": 1}}), "when": 1}], "unknown key 'when'"),
        ([rule({})], "conditions is empty"),
        ([rule({"x": {}})], "compares with nothing"),
        ([rule({"x": {"above": 1}})], "unknown key 'above': use eq, exists"),
        ([rule({"x": {"gte": "1"}})], "x.gte must be a number, not a string"),
        ([rule({"x": {"gte": True}})], "not a boolean"),
        ([rule({"x": {"gte": float("nan")}})], "must be a number"),
        ([rule({"x": {"in": "abc"}})], "must be a list of values"),
        ([rule({"x": {"min_count": -1}})], "at least 0"),
        ([rule({"x": {"exists": "yes"}})], "true or false"),
        ([rule({"x": {"eq": None}})], "write exists: false"),
        ([rule({"header:": {"eq": "a"}})], "header:NAME"),
        ([rule({"x": {"eq": 1}}, device="NPU")], "GPU or CPU"),
        ([{**rule({"x": {"eq": 1}}), "priority": "high"}], "whole number"),
        ([{**rule({"x": {"eq": 1}}), "action": None}], "action must be a mapping, not nothing"),
        ([rule({"x": {"eq": 1}})] * 65, "at most 64"),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused_with_its_place(raw: Any, words: str) -> None:
    with pytest.raises(RuleError, match=words):
        parse_rules(raw)


@pytest.mark.parametrize("operator", ["gt", "gte", "lt", "lte"])
def test_a_number_that_no_float_can_hold_is_compared(operator: str) -> None:
    body = {"max_tokens": 10**400}
    assert matches({"max_tokens": {operator: 10}}, body) is operator.startswith("g")
