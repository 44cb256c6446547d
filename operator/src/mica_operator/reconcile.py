"""One look at one object: observe, decide, apply, report. The only place where the parts of the operator meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mica_api.models.common import WantedCondition
from mica_operator.autoscaler import Autoscaler
from mica_operator.core.conditions import READY, ready_pods, spec_problem
from mica_operator.core.decide import Plan, WantedStatus, decide
from mica_operator.core.pools import pool_status
from mica_operator.core.views import Observed
from mica_operator.metrics import Metrics
from mica_operator.ports import EventSink, Inventory, NameOwners, PoolCluster, Seen, ServiceCluster, Unreadable
from mica_runtime.logging import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceReconciler:
    """Steps of InferenceServices."""

    cluster: ServiceCluster
    images: Mapping[str, str]
    events: EventSink
    metrics: Metrics
    names: NameOwners
    autoscaler: Autoscaler

    async def step(self, namespace: str, name: str) -> bool:
        """Bring one service closer to what it wants; True when it is there. Raises KubeError."""
        seen = await self.cluster.observe(namespace, name)
        if seen is None:
            self.forget(namespace, name)
            return True
        plan = self._plan(seen)
        for body in plan.apply:
            await self.cluster.apply(body)
            self.metrics.writes.labels(body["kind"]).inc()
            _log.info("applied", kind=body["kind"], namespace=namespace, name=body["metadata"]["name"])
        for child in plan.delete:
            await self.cluster.delete(child.body)
            _log.info("deleted", kind=child.body["kind"], namespace=namespace, name=child.body["metadata"]["name"])
        if await self.cluster.write_status(seen, plan.status):
            self._announce(seen.body, plan.status)
        return not plan.apply and not plan.delete and plan.status.settled

    def forget(self, namespace: str, name: str) -> None:
        """The service is gone."""
        self.autoscaler.forget((namespace, name))

    def _plan(self, seen: Seen) -> Plan:
        if isinstance(seen.observed, Observed):
            return decide(self._completed(seen.observed), self.images)
        return Plan((), _unreadable_status(seen.observed))

    def _completed(self, observed: Observed) -> Observed:
        """With what is known from elsewhere than the object and its children."""
        meta, stored = observed.service.metadata, observed.deployment
        current = stored.body.get("spec", {}).get("replicas") if stored is not None else None
        scaling = self.autoscaler.scaling(
            (meta.namespace, meta.name), observed.service.spec.autoscaling, current=current, ready=ready_pods(observed)
        )
        return replace(observed, scaling=scaling, shadowed=self.names.shadowed(meta.namespace, meta.name))

    def _announce(self, body: Mapping[str, Any], status: WantedStatus) -> None:
        """One event per change of Ready's status or reason."""
        ready = next(c for c in status.conditions if c.type == READY)
        before = [c for c in body.get("status", {}).get("conditions", []) if c.get("type") == READY]
        if not before or (before[0].get("status"), before[0].get("reason")) != (ready.status, ready.reason):
            self.events.announce(body, ready)


@dataclass(frozen=True, slots=True)
class PoolReconciler:
    """Steps of VGPUPools."""

    cluster: PoolCluster
    inventory: Inventory

    async def step(self, name: str) -> bool:
        """Report what a pool has and what is taken of it, once the inventory is complete. Raises KubeError."""
        body = await self.cluster.read(name)
        if body is not None:
            named = [gpu["uuid"] for gpu in body.get("spec", {}).get("gpus", [])]
            await self.cluster.write_status(body, pool_status(name, self.inventory.totals(), named=named))
        return True

    async def ensure_default(self) -> bool:
        """There is always a pool: without any, ``default`` is created. A step that is always settled. Raises KubeError."""
        if await self.cluster.ensure_default():
            _log.info("default pool created")
        return True


def _unreadable_status(observed: Unreadable) -> WantedStatus:
    problem = spec_problem("Unreadable", observed.message)
    ready = WantedCondition(READY, "False", problem.reason, problem.message)
    return WantedStatus(conditions=(problem, ready))
