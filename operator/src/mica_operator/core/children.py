"""The Deployment and the Service of an InferenceService, as they are applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from mica_api import names
from mica_api.models import InferenceService
from mica_api.request import InvalidRequest, parse_count
from mica_operator.core.engines import engine_command, engine_env, slice_limits, takes_whole_cards
from mica_operator.core.views import Body, Child

SUFFIX: Final = "-engine"
PORT_NAME: Final = "http"
_DRAIN_S: Final = 3
_GRACE_S: Final = 30
_STARTUP_S: Final = 1800


def child_name(service: InferenceService) -> str:
    """Name of both children."""
    return service.metadata.name + SUFFIX


def selector(service: InferenceService) -> dict[str, str]:
    """Labels of the replicas."""
    return {names.LABEL_INFERENCE_SERVICE: service.metadata.name}


def deployment_body(service: InferenceService, image: str) -> dict[str, Any]:
    """Deployment with one engine per replica, each on its slice."""
    spec = {
        "replicas": service.spec.replicas,
        "selector": {"matchLabels": selector(service)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": _rollout(service)},
        "template": {"metadata": {"labels": _labels(service)}, "spec": _pod(service, image)},
    }
    return _stamped(_object(service, "apps/v1", "Deployment", spec))


def service_body(service: InferenceService) -> dict[str, Any]:
    """Service in front of the replicas; the router reads its EndpointSlices."""
    ports = [{"name": PORT_NAME, "port": 80, "targetPort": PORT_NAME, "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "selector": selector(service), "ports": ports}
    return _stamped(_object(service, "v1", "Service", spec))


def needs_apply(wanted: Body, stored: Child | None) -> bool:
    """Whether applying would change something: never applied like this, or somebody changed a field of ours."""
    if stored is None:
        return True
    return stored.applied != wanted["metadata"]["annotations"][names.ANNOTATION_APPLIED] or not _covers(stored.body, wanted)


def _object(service: InferenceService, api_version: str, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceService",
        "name": service.metadata.name,
        "uid": service.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": child_name(service),
        "namespace": service.metadata.namespace,
        "labels": _labels(service),
        "annotations": {},
        "ownerReferences": [owner],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _stamped(body: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    body["metadata"]["annotations"] = {names.ANNOTATION_APPLIED: digest}
    return body


def _labels(service: InferenceService) -> dict[str, str]:
    return {**selector(service), "app.kubernetes.io/managed-by": names.MANAGER_OPERATOR}


def _rollout(service: InferenceService) -> dict[str, int]:
    """Shares of a card usually leave room for one more replica; a second set of whole cards usually does not exist."""
    if takes_whole_cards(service.spec.slice):
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": 1, "maxUnavailable": 0}


def _pod(service: InferenceService, image: str) -> dict[str, Any]:
    placement = service.spec.placement
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(service, image)],
    }
    if placement is not None and placement.node_selector:
        pod["nodeSelector"] = dict(placement.node_selector)
    return pod


def _container(service: InferenceService, image: str) -> dict[str, Any]:
    run = engine_command(service)
    container: dict[str, Any] = {
        "name": "engine",
        "image": image,
        "ports": [{"name": PORT_NAME, "containerPort": service.spec.engine.port, "protocol": "TCP"}],
        "resources": {"limits": slice_limits(service.spec.slice)},
        "startupProbe": _probe(period=2, threshold=_STARTUP_S // 2),
        "readinessProbe": _probe(period=2, threshold=2),
        "livenessProbe": _probe(period=10, threshold=6),
        # Routers learn from the EndpointSlice that the replica is leaving; it serves until they have.
        "lifecycle": {"preStop": {"sleep": {"seconds": _DRAIN_S}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if run.command:
        container["command"] = list(run.command)
    if run.args:
        container["args"] = list(run.args)
    if env := engine_env(service):
        container["env"] = env
    return container


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
        same = _same_amount if key == "limits" else _covers
        return all(name in stored and same(stored[name], value, key=name) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(stored, list) and len(stored) >= len(wanted) and all(map(_covers, stored, wanted))
    return bool(stored == wanted)


def _same_amount(stored: Any, wanted: Any, *, key: str) -> bool:
    """Our limits are extended resources, of which the API server stores 3000 as ``3k``."""
    try:
        return parse_count("engine", key, stored) == parse_count("engine", key, wanted)
    except InvalidRequest:
        return False
