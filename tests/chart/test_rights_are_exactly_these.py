"""Every right of every account. A change here is a decision, so it must be made twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Body = dict[str, Any]

READ = {"get", "list", "watch"}
WRITE = {"create", "update", "patch", "delete", "deletecollection"}
EXPECTED: dict[str, dict[str, set[str]]] = {
    "ClusterRole/mica-operator": {
        "mica.dev/inferenceservices": READ | {"patch"},
        "mica.dev/inferenceservices/status": {"patch"},
        "mica.dev/inferenceservices/finalizers": {"update"},
        "mica.dev/vgpupools": READ | {"patch", "create"},
        "mica.dev/vgpupools/status": {"patch"},
        "mica.dev/vgpunodes": READ,
        "apps/deployments": READ | {"create", "patch", "delete"},
        "/services": READ | {"create", "patch", "delete"},
        "/secrets": {"get"},
        "/pods": READ,
        "/events": {"create"},
    },
    "ClusterRole/mica-router": {
        "mica.dev/inferenceservices": READ,
        "discovery.k8s.io/endpointslices": READ,
    },
    "ClusterRole/mica-node-agent": {
        "/pods": READ,
        "/nodes": READ,
        "/events": {"create"},
        "mica.dev/vgpupools": READ,
        "mica.dev/vgpunodes": READ | {"create", "patch"},
        "mica.dev/vgpunodes/status": {"patch"},
    },
    "ClusterRole/mica-extender": {
        "/pods": READ,
        "/pods/binding": {"create"},
        "/pods/eviction": {"create"},
        "mica.dev/vgpunodes": READ,
        "mica.dev/vgpupools": READ,
        "resource.k8s.io/deviceclasses:mica-poke": {"patch"},
    },
    "ClusterRole/mica-view": {
        "mica.dev/inferenceservices": READ,
        "mica.dev/inferenceservices/status": READ,
        "mica.dev/vgpupools": READ,
        "mica.dev/vgpunodes": READ,
    },
    "ClusterRole/mica-edit": {
        "mica.dev/inferenceservices": WRITE,
        "mica.dev/inferenceservices/scale": WRITE,
    },
    "Role/mica-operator-routers": {"discovery.k8s.io/endpointslices": {"list"}},
    "Role/mica-explain": {"/services/proxy:mica-explain": {"get"}},
    "Role/mica-scheduler-lease": {
        "coordination.k8s.io/leases": {"create"},
        "coordination.k8s.io/leases:mica-scheduler": READ | {"update"},
    },
}


def _rights(rules: Iterable[Body]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [""]):
                    key = f"{group}/{resource}{':' if name else ''}{name}"
                    found.setdefault(key, set()).update(rule["verbs"])
    return found


def test_roles_grant_exactly_this(rendered: list[Body]) -> None:
    roles = {
        f"{b['kind']}/{b['metadata']['name']}": _rights(b["rules"]) for b in rendered if b["kind"] in ("Role", "ClusterRole")
    }
    assert roles == EXPECTED


def test_bindings_are_exactly_these(rendered: list[Body]) -> None:
    bindings = {
        (b["roleRef"]["name"], subject["name"], b["metadata"].get("namespace", ""))
        for b in rendered
        if b["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in b["subjects"]
    }
    own = {(name, name, "") for name in ("mica-operator", "mica-router", "mica-node-agent", "mica-extender")}
    assert bindings == own | {
        ("system:kube-scheduler", "mica-extender", ""),
        ("system:volume-scheduler", "mica-extender", ""),
        ("extension-apiserver-authentication-reader", "mica-extender", "kube-system"),
        ("mica-scheduler-lease", "mica-extender", "mica-system"),
        ("mica-operator-routers", "mica-operator", "mica-system"),
    }


def test_no_rule_has_a_wildcard(rendered: list[Body]) -> None:
    for body in rendered:
        for rule in body.get("rules", []) if body["kind"] in ("Role", "ClusterRole") else []:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], body["metadata"]["name"]


def test_tokens_are_mounted_by_pods_and_not_by_default(rendered: list[Body]) -> None:
    accounts = [b for b in rendered if b["kind"] == "ServiceAccount"]
    assert len(accounts) == 4
    assert all(a["automountServiceAccountToken"] is False for a in accounts)
