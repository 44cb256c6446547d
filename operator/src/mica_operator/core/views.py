"""What the operator has seen of the cluster, reduced to what decisions are made from.

Reading is tolerant: absent fields mean what the API says they mean. Not a model of pods: only the parts that explain a service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mica_api.models import InferenceService
from mica_api.names import ANNOTATION_APPLIED

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container does not run, in the kubelet's words."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended the last time."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """One replica. ``unplaced`` says why no node was found; ``node`` alone says whether one was.

    ``running``: the engine's process exists, whether or not it answers.
    """

    name: str
    node: str = ""
    ready: bool = False
    failed: bool = False
    message: str = ""
    unplaced: Waiting | None = None
    waiting: Waiting | None = None
    last_exit: Exit | None = None
    running: bool = False


@dataclass(frozen=True, slots=True)
class Child:
    """An object that we may have made. ``owner`` is the uid of its controller, ``applied`` the digest we left on it."""

    owner: str
    applied: str
    body: Body


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """What the Deployment controller says. ``failure`` is why it cannot make pods.

    ``replicas`` counts pods of every specification, ``updated`` those of the current one, whether or not they answer.
    """

    current: bool = False
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Cluster address of the router."""

    host: str
    port: int
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class KeyHashes:
    """SHA-256 of the API keys of a service, as hex, or why there are none."""

    hashes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas demand asks for, as the autoscaler sees it. ``stale``: why the demand is not known."""

    replicas: int
    reason: str = ""
    stale: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one decision about an InferenceService depends on.

    ``shadowed``: names that it claims and an older service has, with that service.
    """

    service: InferenceService
    deployment: Child | None = None
    endpoint: Child | None = None
    state: DeploymentState = field(default_factory=DeploymentState)
    pods: tuple[PodView, ...] = ()
    router: Address | None = None
    cpu_deployment: Child | None = None
    cpu_endpoint: Child | None = None
    cpu_state: DeploymentState = field(default_factory=DeploymentState)
    keys: KeyHashes = field(default_factory=KeyHashes)
    scaling: Scaling | None = None
    shadowed: tuple[tuple[str, str], ...] = ()

    @property
    def wanted(self) -> int:
        """Replicas on slices: what the autoscaler says, where there is one."""
        return self.service.replicas if self.scaling is None else self.scaling.replicas


def read_child(body: Body | None) -> Child | None:
    """A Deployment or Service as stored."""
    if body is None:
        return None
    meta = body.get("metadata", {})
    owners = [o.get("uid", "") for o in meta.get("ownerReferences", []) if o.get("controller")]
    return Child(
        owner=owners[0] if owners else "",
        applied=meta.get("annotations", {}).get(ANNOTATION_APPLIED, ""),
        body=body,
    )


def read_deployment_state(body: Body | None) -> DeploymentState:
    """Progress of a Deployment."""
    if body is None:
        return DeploymentState()
    status = body.get("status", {})
    failures = [
        c.get("message", "")
        for c in status.get("conditions", [])
        if c.get("type") == "ReplicaFailure" and c.get("status") == "True"
    ]
    return DeploymentState(
        current=status.get("observedGeneration", 0) >= body.get("metadata", {}).get("generation", 0),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        failure=failures[0] if failures else "",
    )


def read_pod(body: Body) -> PodView | None:
    """One replica, or None for a pod that is going away or has finished well."""
    meta, spec, status = body.get("metadata", {}), body.get("spec", {}), body.get("status", {})
    if meta.get("deletionTimestamp") or status.get("phase") == "Succeeded":
        return None
    conditions = {c.get("type"): c for c in status.get("conditions", [])}
    waiting, last_exit = _container_trouble(status)
    node = spec.get("nodeName", "")
    return PodView(
        name=meta.get("name", ""),
        node=node,
        ready=conditions.get("Ready", {}).get("status") == "True",
        failed=status.get("phase") == "Failed",
        message=status.get("message", ""),
        unplaced=None if node else _unplaced(conditions.get("PodScheduled", {})),
        waiting=waiting,
        last_exit=last_exit,
        running=any("running" in c.get("state", {}) for c in status.get("containerStatuses", [])),
    )


def read_router(body: Body | None, port_name: str = "http") -> Address | None:
    """Address of the router's Service; its cluster IP, since nothing here needs cluster DNS."""
    if body is None:
        return None
    spec = body.get("spec", {})
    host = spec.get("clusterIP", "")
    ports = [p for p in spec.get("ports", []) if p.get("name") == port_name]
    if host in ("", "None") or not ports:
        return None
    return Address(host, ports[0].get("port", 0), "https" if ports[0].get("appProtocol") == "https" else "http")


def _unplaced(condition: Body) -> Waiting | None:
    if condition.get("status") != "False":
        return None
    return Waiting(condition.get("reason", ""), condition.get("message", ""))


def _container_trouble(status: Body) -> tuple[Waiting | None, Exit | None]:
    waiting: Waiting | None = None
    last_exit: Exit | None = None
    for container in status.get("containerStatuses", []):
        state = container.get("state", {})
        if "waiting" in state:
            waiting = Waiting(state["waiting"].get("reason", ""), state["waiting"].get("message", ""))
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
        if ended:
            last_exit = Exit(ended.get("exitCode", 0), ended.get("reason", ""))
    return waiting, last_exit
