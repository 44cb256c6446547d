from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from mica_api.crds import KINDS, Kind, NotStructural, crd, structural_schema
from mica_api.models.common import Condition, Model, WantedCondition, merge_conditions

Schema = dict[str, Any]
_NOT_STRUCTURAL = {
    "$ref",
    "$defs",
    "anyOf",
    "oneOf",
    "allOf",
    "nullable",
    "title",
    "const",
    "exclusiveMinimum",
    "exclusiveMaximum",
}


def _nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _nodes(schema[key], f"{path}.{key}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_every_node_of_the_schema_has_a_type_and_nothing_that_is_not_structural(kind: Kind) -> None:
    for path, node in _nodes(structural_schema(kind.model)):
        assert "type" in node or node.get("x-kubernetes-int-or-string") or node.get("x-kubernetes-preserve-unknown-fields"), path
        assert not node.keys() & _NOT_STRUCTURAL, path
        assert not ("properties" in node and "additionalProperties" in node), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_no_default_is_null_or_an_empty_collection(kind: Kind) -> None:
    for path, node in _nodes(structural_schema(kind.model)):
        default = node.get("default", 0)
        assert default not in (None, [], {}), path
        assert None not in (default.values() if isinstance(default, dict) else ()), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_lists_and_strings_of_the_spec_are_bounded(kind: Kind) -> None:
    """CEL rules are refused by their estimated cost when what they look at is not."""
    spec = structural_schema(kind.model)["properties"]["spec"]
    for path, node in _nodes(spec):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "object" and "additionalProperties" in node:
            assert "maxProperties" in node, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_columns_point_at_fields_that_exist(kind: Kind) -> None:
    body = crd(kind)
    (version,) = body["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    for column in version["additionalPrinterColumns"]:
        node = schema
        for part in column["jsonPath"].lstrip(".").split("[")[0].split("."):
            if part == "creationTimestamp":
                break
            node = node["properties"][part]


def test_conditions_are_a_map_by_type() -> None:
    for kind in KINDS:
        conditions = structural_schema(kind.model)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_a_union_of_types_is_not_silently_lost() -> None:
    class Union(Model):
        spec: int | str

    with pytest.raises(NotStructural, match="union"):
        structural_schema(Union)


def _merge(current: list[Condition], status: str, now: datetime) -> Condition:
    wanted = WantedCondition("Ready", "True" if status == "True" else "False", "R", "m")
    (merged,) = merge_conditions(current, [wanted], generation=2, now=now)
    return merged


def test_the_transition_time_moves_with_the_status_alone() -> None:
    first, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    before = _merge([], "True", first)
    assert before.last_transition_time == "2026-01-01T00:00:00Z"
    assert _merge([before], "True", later).last_transition_time == "2026-01-01T00:00:00Z"
    assert _merge([before], "False", later).last_transition_time == "2026-01-02T00:00:00Z"
    assert _merge([before], "True", later).observed_generation == 2
