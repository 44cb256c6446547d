"""Field rules: which requests are sent to which tier, by what is in them. `routing.rules` of an InferenceService and of sysHAX.

A rule has a name, a priority, conditions that must all hold, and the tier it sends to:

    {"name": "long answers", "priority": 100, "conditions": {"max_tokens": {"gte": 1024}}, "action": {"device": "CPU"}}

The highest priority wins, the first written among equals. A rule is a preference: where its tier cannot take the request, the
decision falls to `tiers_decide`. Fields are those of the JSON body (`model`, `temperature`, `stream`, `messages`, `tools`, ...;
`response_format.type` is one inside another), and:

- `max_tokens`: the body's `max_tokens`, else its `max_completion_tokens` or `max_output_tokens`;
- `prompt_tokens`: an estimate from the size of the body (see `facts`); a body's own field of that name is not looked at;
- `path`: the request's path, for example `/v1/embeddings`;
- `header:<name>`: a request header, any case.

A field that is absent or null meets no condition but `exists: false`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from mica_router.core.engines import Tier
from mica_router.core.routing import Condition, FieldRule, Operator

HEADER_PREFIX: Final = "header:"
_MAX_RULES: Final = 64
_DEVICES: Final[Mapping[str, Tier]] = {"gpu": "gpu", "cpu": "cpu"}


class RuleError(ValueError):
    """A rule that cannot be applied, with words for who wrote it."""


def holds(condition: Condition, actual: Any) -> bool:
    """Whether a field's JSON value (None when absent) meets a condition."""
    return OPERATORS[condition.operator](actual, condition.value)


def describe(condition: Condition) -> str:
    """A condition in words."""
    return f"{condition.field} {condition.operator} {condition.value!r}"


def first_match(rules: Iterable[FieldRule], read: Callable[[str], Any]) -> FieldRule | None:
    """The first rule whose conditions all hold; `read` gives the JSON value of a field, None when absent."""
    for rule in rules:
        if all(holds(condition, read(condition.field)) for condition in rule.conditions):
            return rule
    return None


def in_order(rules: Iterable[FieldRule]) -> tuple[FieldRule, ...]:
    """By descending priority; equal ones stay in the order given."""
    return tuple(sorted(rules, key=lambda rule: -rule.priority))


def parse_rules(raw: Any) -> tuple[FieldRule, ...]:
    """Rules from decoded JSON or YAML, in sysHAX's form, in the order in which they are tried.

    Raises RuleError with the place and what to write instead.
    """
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise RuleError(f"routing.rules must be a list of rules, not {_kind(raw)}")
    if len(raw) > _MAX_RULES:
        raise RuleError(f"routing.rules has {len(raw)} rules; at most {_MAX_RULES} are possible")
    return in_order(_parse_rule(entry, where=f"routing.rules[{index}]") for index, entry in enumerate(raw))


def _parse_rule(raw: Any, *, where: str) -> FieldRule:
    entry = _mapping(raw, where=where, known={"name", "priority", "conditions", "action"})
    name = entry.get("name", where)
    if not isinstance(name, str) or not name:
        raise RuleError(f"{where}.name must be a string")
    priority = entry.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise RuleError(f"{where}.priority must be a whole number")
    conditions = _mapping(entry.get("conditions"), where=f"{where}.conditions")
    if not conditions:
        raise RuleError(f"{where}.conditions is empty: name at least one field")
    action = _mapping(entry.get("action"), where=f"{where}.action", known={"device"})
    device = action.get("device")
    if not isinstance(device, str) or device.lower() not in _DEVICES:
        raise RuleError(f"{where}.action.device must be GPU or CPU")
    return FieldRule(
        name=name,
        tier=_DEVICES[device.lower()],
        priority=priority,
        conditions=tuple(
            condition
            for field, comparisons in conditions.items()
            for condition in _parse_comparisons(field, comparisons, where=f"{where}.conditions")
        ),
    )


def _parse_comparisons(field: str, raw: Any, *, where: str) -> list[Condition]:
    if not field or (field.startswith(HEADER_PREFIX) and not field.removeprefix(HEADER_PREFIX)):
        raise RuleError(f"{where} has a field without a name; a header is written header:NAME")
    comparisons = _mapping(raw, where=f"{where}.{field}", known=set(OPERATORS))
    if not comparisons:
        raise RuleError(f"{where}.{field} compares with nothing: use {', '.join(OPERATORS)}")
    if field.startswith(HEADER_PREFIX):
        field = field.lower()
    return [_parse_comparison(field, operator, value, where=where) for operator, value in comparisons.items()]


def _parse_comparison(field: str, operator: str, value: Any, *, where: str) -> Condition:
    place = f"{where}.{field}.{operator}"
    if operator in ("gte", "lte", "gt", "lt") and not _is_number(value):
        raise RuleError(f"{place} must be a number, not {_kind(value)}")
    if operator in ("min_count", "max_count") and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise RuleError(f"{place} must be a whole number of at least 0, not {_kind(value)}")
    if operator == "exists" and not isinstance(value, bool):
        raise RuleError(f"{place} must be true or false, not {_kind(value)}")
    if operator == "in" and not isinstance(value, list):
        raise RuleError(f"{place} must be a list of values, not {_kind(value)}")
    if operator == "eq" and value is None:
        raise RuleError(f"{place} must not be null: write exists: false")
    return Condition(field=field, operator=cast(Operator, operator), value=value)


def _mapping(raw: Any, *, where: str, known: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) for key in raw):
        raise RuleError(f"{where} must be a mapping, not {_kind(raw)}")
    strange = sorted(set(raw) - known) if known is not None else []
    if strange:
        raise RuleError(f"{where} has the unknown key {strange[0]!r}: use {', '.join(sorted(known or ()))}")
    return raw


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {dict: "a mapping", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _is_number(value: Any) -> bool:
    # A whole number of JSON may be larger than any float, which `isfinite` does not bear.
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value))


def same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0 and is not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_json(value, right[key]) for key, value in left.items())
    return bool(left == right)


def _number(value: Any) -> float:
    """Headers are text: a number in one counts as a number. Anything else compares with nothing."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return math.nan
    return value if _is_number(value) else math.nan


OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gte": lambda actual, value: _number(actual) >= value,
    "lte": lambda actual, value: _number(actual) <= value,
    "gt": lambda actual, value: _number(actual) > value,
    "lt": lambda actual, value: _number(actual) < value,
    "eq": lambda actual, value: actual is not None and same_json(actual, value),
    "in": lambda actual, value: actual is not None and any(same_json(actual, one) for one in value),
    "min_count": lambda actual, value: isinstance(actual, list) and len(actual) >= value,
    "max_count": lambda actual, value: isinstance(actual, list) and len(actual) <= value,
    "exists": lambda actual, value: (actual is not None) is value,
}
"""What an operator means: the field's value (None when absent) and the rule's value in, whether it holds out."""
