"""The decision about one InferenceService: which objects to apply, and what its status says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_operator.core import children
from mica_operator.core.conditions import READY, conditions, ready_pods, spec_problem
from mica_operator.core.engines import Role, Tier, cpu_role, gpu_role
from mica_operator.core.views import Address, Child, Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedStatus:
    """Status without times, which are decided when it is written."""

    url: str | None = None
    desired_replicas: int | None = None
    replicas: int = 0
    ready_replicas: int = 0
    cpu_ready_replicas: int | None = None
    selector: str = ""
    api_key_hashes: tuple[str, ...] = ()
    conditions: tuple[WantedCondition, ...]

    @property
    def settled(self) -> bool:
        """Whether Ready is true and every replica that is there is ready."""
        ready = any(c.type == READY and c.status == "True" for c in self.conditions)
        return ready and self.replicas == self.ready_replicas


@dataclass(frozen=True, slots=True)
class Plan:
    """Bodies to apply, in order, children to delete, and the status."""

    apply: tuple[dict[str, Any], ...]
    status: WantedStatus
    delete: tuple[Child, ...] = ()


def decide(observed: Observed, images: Mapping[str, str]) -> Plan:
    """What to do now. Nothing to apply when everything is as wanted, so deciding again after applying changes nothing."""
    service = observed.service
    gpu, cpu = gpu_role(service, observed.wanted), cpu_role(service)
    roles = [gpu] if cpu is None else [gpu, cpu]
    problem = _problem(observed, roles, images)
    wanted: list[dict[str, Any]] = []
    if problem is None:
        wanted = [body for role in roles for body in _changed(observed, role, images)]
    surplus = () if cpu is not None else tuple(child for _, child in _children(observed, "cpu") if _owned(child, service))
    return Plan(tuple(wanted), _status(observed, conditions(observed, problem)), surplus)


def _changed(observed: Observed, role: Role, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """Bodies of one tier that are not stored like this."""
    service = observed.service
    bodies = (
        children.deployment_body(service, role, role.image(images) or ""),
        children.service_body(service, role.tier),
    )
    pairs = zip(reversed(bodies), (child for _, child in _children(observed, role.tier)), strict=True)
    return [body for body, stored in pairs if children.needs_apply(body, stored)]


def _children(observed: Observed, tier: Tier) -> tuple[tuple[str, Child | None], ...]:
    if tier == "gpu":
        return ("Service", observed.endpoint), ("Deployment", observed.deployment)
    return ("Service", observed.cpu_endpoint), ("Deployment", observed.cpu_deployment)


def _owned(child: Child | None, service: InferenceService) -> TypeGuard[Child]:
    return child is not None and child.owner == service.metadata.uid


def _problem(observed: Observed, roles: Sequence[Role], images: Mapping[str, str]) -> WantedCondition | None:
    service = observed.service
    for role in roles:
        if role.image(images) is None:
            kind, field = role.engine.type, "spec.engine.image" if role.tier == "gpu" else "spec.cpu.engine.image"
            words = f"no image for engine type {kind}: set {field}, or engines.{kind}.image in the chart's values"
            return spec_problem("NoEngineImage", words)
        for what, child in _children(observed, role.tier):
            if child is not None and not _owned(child, service):
                return spec_problem("NameTaken", _taken(what, children.child_name(service, role.tier), child))
    return None


def _taken(kind: str, name: str, child: Child) -> str:
    if child.owner:
        return f"{kind} {name} belongs to another object; if that is being deleted this passes, else rename one of them"
    return f"{kind} {name} exists and was not made by Mica; delete it or rename this InferenceService"


def _status(observed: Observed, found: tuple[WantedCondition, ...]) -> WantedStatus:
    return WantedStatus(
        url=_url(observed.router),
        desired_replicas=observed.wanted,
        cpu_ready_replicas=None if observed.service.spec.cpu is None else observed.cpu_state.ready,
        api_key_hashes=observed.keys.hashes,
        replicas=sum(not p.failed for p in observed.pods),
        ready_replicas=ready_pods(observed),
        selector=",".join(f"{key}={value}" for key, value in children.selector(observed.service).items()),
        conditions=found,
    )


def _url(router: Address | None) -> str | None:
    if router is None:
        return None
    host = f"[{router.host}]" if ":" in router.host else router.host
    usual = 443 if router.scheme == "https" else 80
    port = "" if router.port == usual else f":{router.port}"
    return f"{router.scheme}://{host}{port}/v1"
