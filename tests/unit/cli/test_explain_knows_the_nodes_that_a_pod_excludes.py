"""nodeSelector, required node affinity, cordons and taints, as Kubernetes' API reference defines them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_cli.eligible import excluded, nodes_by_name

LABELS = {"disk": "ssd", "gpus": "8"}
TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


def node(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n1", "labels": LABELS}, "spec": spec}


def why(spec: dict[str, Any], **own: Any) -> str:
    return excluded({"spec": spec}, {"n1": node(**own)}).get("n1", "")


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}}


def label(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def test_a_selector_names_the_label_that_differs() -> None:
    assert why({}) == why({"nodeSelector": {"disk": "ssd"}}) == ""
    assert why({"nodeSelector": {"disk": "hdd"}}) == "nodeSelector disk=hdd does not match the node's disk=ssd"
    assert why({"nodeSelector": {"zone": "a"}}) == "nodeSelector zone=a does not match the node's labels, which have no zone"


@pytest.mark.parametrize(
    ("term", "matches"),
    [
        (label("disk", "In", "ssd", "nvme"), True),
        (label("disk", "In", "hdd"), False),
        (label("disk", "NotIn", "hdd"), True),
        (label("disk", "NotIn", "ssd"), False),
        (label("zone", "NotIn", "a"), True),
        (label("disk", "Exists"), True),
        (label("zone", "Exists"), False),
        (label("zone", "DoesNotExist"), True),
        (label("disk", "DoesNotExist"), False),
        (label("gpus", "Gt", "7"), True),
        (label("gpus", "Gt", "8"), False),
        (label("gpus", "Lt", "9"), True),
        (label("gpus", "Lt", "8"), False),
        (label("disk", "Gt", "1"), False),
        (label("zone", "Lt", "1"), False),
        (label("disk", "Near", "1"), False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}, False),
        ({}, False),
    ],
)
def test_a_term_of_required_affinity_matches_as_in_kubernetes(term: dict[str, Any], matches: bool) -> None:
    assert (why(affinity(term)) == "") == matches


def test_terms_are_alternatives_and_preferred_affinity_excludes_nothing() -> None:
    assert why(affinity(label("disk", "In", "hdd"), label("gpus", "Exists"))) == ""
    assert "required node affinity" in why(affinity(label("disk", "In", "hdd"), label("zone", "Exists")))
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": label("zone", "Exists")}]}
    assert why({"affinity": {"nodeAffinity": preferred}}) == ""


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_taints_exclude_unless_they_are_tolerated(toleration: dict[str, Any], tolerated: bool) -> None:
    assert why({}, taints=[TAINT]) == "the pod does not tolerate the taint gpu=yes:NoSchedule"
    assert (why({"tolerations": [toleration]}, taints=[TAINT]) == "") == tolerated
    assert why({}, taints=[{**TAINT, "effect": "PreferNoSchedule"}]) == ""


def test_a_cordoned_node_excludes_all_but_who_tolerates_that() -> None:
    assert why({}, unschedulable=True) == "the node is cordoned"
    tolerates = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]
    assert why({"tolerations": tolerates}, unschedulable=True) == ""


def test_nodes_are_read_from_a_list() -> None:
    assert nodes_by_name(json.dumps({"items": [node()]})) == {"n1": node()}
    with pytest.raises(ValueError, match="no nodes"):
        nodes_by_name("[]")
