"""Nodes that a pod itself rules out by nodeSelector, required node affinity and tolerations. Pure.

The scheduler's extender never asks: by then kube-scheduler's plugins NodeAffinity, NodeUnschedulable and TaintToleration have
refused these nodes, so that GPUs that are free there are none for the pod. Semantics as in Kubernetes' API reference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

Body = Mapping[str, Any]
_REPELLING: Final = ("NoSchedule", "NoExecute")
_CORDON: Final = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def nodes_by_name(text: str) -> dict[str, Body]:
    """Nodes of a list by name. Raises ValueError."""
    try:
        return {item["metadata"]["name"]: item for item in json.loads(text)["items"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"no nodes in kubectl's answer: {error!r}") from error


def excluded(pod: Body, nodes: Mapping[str, Body]) -> dict[str, str]:
    """Why not, in words, by the name of each node that the pod rules out."""
    spec = pod.get("spec") or {}
    reasons = {name: _reason(spec, name, node) for name, node in nodes.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(spec: Body, name: str, node: Body) -> str:
    labels = (node.get("metadata") or {}).get("labels") or {}
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"nodeSelector {key}={value} does not match the node's {_shown(labels, key)}"
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required and not any(_term(term, name, labels) for term in required.get("nodeSelectorTerms") or []):
        return "no term of the pod's required node affinity matches the node"
    own = node.get("spec") or {}
    tolerations = spec.get("tolerations") or []
    if own.get("unschedulable") and not _tolerated(_CORDON, tolerations):
        return "the node is cordoned"
    for taint in own.get("taints") or []:
        if taint.get("effect") in _REPELLING and not _tolerated(taint, tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"the pod does not tolerate the taint {taint.get('key')}{value}:{taint['effect']}"
    return ""


def _shown(labels: Mapping[str, str], key: str) -> str:
    return f"{key}={labels[key]}" if key in labels else f"labels, which have no {key}"


def _term(term: Body, name: str, labels: Mapping[str, str]) -> bool:
    """A term without requirements matches nothing."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    return all(_holds(one, labels) for one in expressions) and all(_holds(one, {"metadata.name": name}) for one in fields)


def _holds(requirement: Body, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(requirement["key"]), requirement.get("values") or []
    match requirement.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _number(value) is not None and _number(value, 0) > _number(values[0], 0)
        case "Lt":
            return _number(value) is not None and _number(value, 0) < _number(values[0], 0)
    return False


def _number(text: str | None, otherwise: int | None = None) -> Any:
    try:
        return int(text or "")
    except ValueError:
        return otherwise


def _tolerated(taint: Body, tolerations: Iterable[Body]) -> bool:
    return any(_tolerates(one, taint) for one in tolerations)


def _tolerates(toleration: Body, taint: Body) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    key = toleration.get("key")
    if toleration.get("operator") == "Exists":
        return key in (None, "", taint.get("key"))
    return key == taint.get("key") and (toleration.get("value") or "") == (taint.get("value") or "")
