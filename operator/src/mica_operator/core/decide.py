"""The decision about one InferenceService: which objects to apply, and what its status says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mica_api.models.common import WantedCondition
from mica_operator.core import children
from mica_operator.core.conditions import conditions, ready_pods, spec_problem
from mica_operator.core.engines import engine_image
from mica_operator.core.views import Address, Child, Observed


@dataclass(frozen=True, slots=True)
class WantedStatus:
    """Status without times, which are decided when it is written."""

    url: str | None
    replicas: int
    ready_replicas: int
    selector: str
    conditions: tuple[WantedCondition, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Bodies to apply, in order, and the status."""

    apply: tuple[dict[str, Any], ...]
    status: WantedStatus


def decide(observed: Observed, images: Mapping[str, str]) -> Plan:
    """What to do now. Nothing to apply when everything is as wanted, so deciding again after applying changes nothing."""
    image = engine_image(observed.service, images)
    problem = _problem(observed, image)
    wanted: list[dict[str, Any]] = []
    if problem is None and image is not None:
        pairs = (
            (children.service_body(observed.service), observed.endpoint),
            (children.deployment_body(observed.service, image), observed.deployment),
        )
        wanted = [body for body, stored in pairs if children.needs_apply(body, stored)]
    return Plan(tuple(wanted), _status(observed, conditions(observed, problem)))


def _problem(observed: Observed, image: str | None) -> WantedCondition | None:
    service = observed.service
    if image is None:
        kind = service.spec.engine.type
        return spec_problem(
            "NoEngineImage",
            f"no image for engine type {kind}: set spec.engine.image, or engines.{kind}.image in the chart's values",
        )
    for what, child in (("Deployment", observed.deployment), ("Service", observed.endpoint)):
        if child is not None and child.owner != service.metadata.uid:
            return spec_problem("NameTaken", _taken(what, children.child_name(service), child))
    return None


def _taken(kind: str, name: str, child: Child) -> str:
    if child.owner:
        return f"{kind} {name} belongs to another object; if that is being deleted this passes, else rename one of them"
    return f"{kind} {name} exists and was not made by Mica; delete it or rename this InferenceService"


def _status(observed: Observed, found: tuple[WantedCondition, ...]) -> WantedStatus:
    return WantedStatus(
        url=_url(observed.router),
        replicas=sum(not p.failed for p in observed.pods),
        ready_replicas=ready_pods(observed),
        selector=",".join(f"{key}={value}" for key, value in children.selector(observed.service).items()),
        conditions=found,
    )


def _url(router: Address | None) -> str | None:
    if router is None:
        return None
    host = f"[{router.host}]" if ":" in router.host else router.host
    port = "" if router.port == 80 else f":{router.port}"
    return f"http://{host}{port}/v1"
