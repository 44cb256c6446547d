"""The Deployment and the Service of an InferenceService, as they are applied."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from mica_api import names
from mica_api.cpu import parse_milli
from mica_api.durations import parse_duration
from mica_api.models import InferenceService
from mica_api.models.engine import Volume
from mica_operator.core.engines import Role, Tier, engine_command, engine_env
from mica_operator.core.views import Body, Child

SUFFIXES: Final[Mapping[Tier, str]] = {"gpu": "-engine", "cpu": "-cpu"}
PORT_NAME: Final = "http"
_GRACE_S: Final = 30
_MANAGED: Final = {"app.kubernetes.io/managed-by": names.MANAGER_OPERATOR}
_STARTUP_S: Final = 1800
_AMOUNTS: Final = frozenset({"limits", "requests", "emptyDir"})


def child_name(service: InferenceService, tier: Tier = "gpu") -> str:
    """Name of a tier's Deployment and Service."""
    return service.metadata.name + SUFFIXES[tier]


def selector(service: InferenceService, tier: Tier = "gpu") -> dict[str, str]:
    """Labels of a tier's replicas."""
    label = names.LABEL_INFERENCE_SERVICE if tier == "gpu" else names.LABEL_CPU_ENGINE
    return {label: service.metadata.name}


def deployment_body(service: InferenceService, role: Role, image: str) -> dict[str, Any]:
    """Deployment with one engine per replica."""
    labels = {**selector(service, role.tier), **_MANAGED}
    spec = {
        "replicas": role.replicas,
        "selector": {"matchLabels": selector(service, role.tier)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": _rollout(role)},
        "template": {"metadata": _template_meta(labels, role), "spec": _pod(service, role, image)},
    }
    return _stamped(_object(service, "apps/v1", "Deployment", tier=role.tier, spec=spec))


def _template_meta(labels: Mapping[str, str], role: Role) -> dict[str, Any]:
    annotations = {"annotations": dict(role.annotations)} if role.annotations else {}
    return {"labels": dict(labels), **annotations}


def service_body(service: InferenceService, tier: Tier = "gpu") -> dict[str, Any]:
    """Service in front of a tier's replicas; the router reads its EndpointSlices."""
    ports = [{"name": PORT_NAME, "port": 80, "targetPort": PORT_NAME, "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "selector": selector(service, tier), "ports": ports}
    return _stamped(_object(service, "v1", "Service", tier=tier, spec=spec))


def needs_apply(wanted: Body, stored: Child | None) -> bool:
    """Whether applying would change something: never applied like this, or somebody changed a field of ours."""
    if stored is None:
        return True
    return stored.applied != wanted["metadata"]["annotations"][names.ANNOTATION_APPLIED] or not _covers(stored.body, wanted)


def _object(service: InferenceService, api_version: str, kind: str, *, tier: Tier, spec: Mapping[str, Any]) -> dict[str, Any]:
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceService",
        "name": service.metadata.name,
        "uid": service.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": child_name(service, tier),
        "namespace": service.metadata.namespace,
        "labels": {names.LABEL_INFERENCE_SERVICE: service.metadata.name, names.LABEL_TIER: tier, **_MANAGED},
        "annotations": {},
        "ownerReferences": [owner],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _stamped(body: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    body["metadata"]["annotations"] = {names.ANNOTATION_APPLIED: digest}
    return body


def _rollout(role: Role) -> dict[str, int]:
    """Shares of a card usually leave room for one more replica; a second set of whole cards usually does not exist."""
    if role.whole_cards:
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": 1, "maxUnavailable": 0}


def _pod(service: InferenceService, role: Role, image: str) -> dict[str, Any]:
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _drain_seconds(role) + _GRACE_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(service, role, image)],
        **_placement(role),
    }
    if role.engine.volumes:
        pod["volumes"] = [volume.source() for volume in role.engine.volumes]
    return pod


def _placement(role: Role) -> dict[str, Any]:
    wanted = role.placement.to_wire() if role.placement is not None else {}
    return {field: value for field, value in wanted.items() if value}


def _drain_seconds(role: Role) -> int:
    return math.ceil(parse_duration(role.engine.drain))


def _container(service: InferenceService, role: Role, image: str) -> dict[str, Any]:
    run = engine_command(service, role)
    container: dict[str, Any] = {
        "name": "engine",
        "image": image,
        "ports": [{"name": PORT_NAME, "containerPort": role.engine.port, "protocol": "TCP"}],
        "resources": {side: dict(amounts) for side, amounts in role.resources.items()},
        "startupProbe": _probe(period=2, threshold=_STARTUP_S // 2),
        "readinessProbe": _probe(period=2, threshold=2),
        "livenessProbe": _probe(period=10, threshold=6),
        # Routers learn from the EndpointSlice that the replica is leaving; it serves until they have.
        "lifecycle": {"preStop": {"sleep": {"seconds": max(_drain_seconds(role), 1)}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if run.command:
        container["command"] = list(run.command)
    if run.args:
        container["args"] = list(run.args)
    if env := engine_env(role):
        container["env"] = env
    if role.engine.volumes:
        container["volumeMounts"] = [_mount(volume) for volume in role.engine.volumes]
    return container


def _mount(volume: Volume) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": volume.name, "mountPath": volume.mount_path}
    return {**mount, "readOnly": True} if volume.read_only else mount


def _probe(*, period: int, threshold: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/health", "port": PORT_NAME},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": threshold,
    }


def _covers(stored: Any, wanted: Any, *, key: str = "") -> bool:
    """Whether every value that we want is stored; what others and the API server added is theirs."""
    if isinstance(wanted, Mapping):
        if not isinstance(stored, Mapping):
            return False
        same = _same_amount if key in _AMOUNTS else _covers
        return all(name in stored and same(stored[name], value, key=name) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(stored, list) and len(stored) >= len(wanted) and all(map(_covers, stored, wanted))
    return bool(stored == wanted)


def _same_amount(stored: Any, wanted: Any, *, key: str) -> bool:
    """The API server stores 3000 as ``3k`` and 1000m as ``1``."""
    if isinstance(wanted, Mapping):
        return _covers(stored, wanted, key=key)
    try:
        return stored == wanted or parse_milli(str(stored)) == parse_milli(str(wanted))
    except ValueError:
        return False
