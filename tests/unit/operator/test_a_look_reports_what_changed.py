from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry

from mica_api.models import InferenceService
from mica_api.models.common import WantedCondition
from mica_operator.autoscaler import Autoscaler
from mica_operator.core.decide import Plan, WantedStatus
from mica_operator.core.pools import NodeTotals, WantedPoolStatus
from mica_operator.core.views import Observed
from mica_operator.metrics import Metrics
from mica_operator.ports import Seen, Unreadable
from mica_operator.reconcile import PoolReconciler, ServiceReconciler

Observe = Callable[..., Observed]
CarryOut = Callable[[Observed, Plan], Observed]


@dataclass
class FakeCluster:
    """One service in memory; what is applied is observed from then on."""

    observed: Observed | Unreadable | None
    carry_out: CarryOut
    body: dict[str, Any] = field(default_factory=lambda: {"metadata": {"generation": 1}})
    applied: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    written: list[WantedStatus] = field(default_factory=list)

    async def observe(self, namespace: str, name: str) -> Seen | None:
        return None if self.observed is None else Seen(dict(self.body), self.observed)

    async def apply(self, body: Mapping[str, Any]) -> None:
        self.applied.append(body["kind"])
        assert isinstance(self.observed, Observed)
        self.observed = self.carry_out(self.observed, Plan((dict(body),), WantedStatus(conditions=())))

    async def delete(self, body: Mapping[str, Any]) -> None:
        self.deleted.append(body["metadata"]["name"])

    async def write_status(self, seen: Seen, status: WantedStatus) -> bool:
        if self.written and self.written[-1] == status:
            return False
        self.written.append(status)
        self.body["status"] = {
            "conditions": [{"type": c.type, "status": c.status, "reason": c.reason} for c in status.conditions]
        }
        return True


@dataclass
class Announced:
    seen: list[tuple[str, str]] = field(default_factory=list)

    def announce(self, body: Mapping[str, Any], condition: WantedCondition) -> None:
        self.seen.append((condition.status, condition.reason))


class NoRouters:
    """No router tells its demand."""

    async def read(self) -> None:
        return None


class OwnNames:
    """Nobody claims the same name."""

    async def wait_synced(self) -> None:
        return None

    def shadowed(self, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
        return ()


def _reconciler(cluster: FakeCluster) -> tuple[ServiceReconciler, Announced]:
    events = Announced()
    autoscaler = Autoscaler(NoRouters(), clock=lambda: 0.0, wake=lambda key: None)
    metrics = Metrics(CollectorRegistry())
    return ServiceReconciler(cluster, {"llamacpp": "i"}, events, metrics, OwnNames(), autoscaler), events


async def test_a_second_look_writes_nothing(service: Callable[..., InferenceService], carry_out: CarryOut) -> None:
    cluster = FakeCluster(Observed(service=service()), carry_out)
    reconciler, events = _reconciler(cluster)
    for _ in range(3):
        await reconciler.step("ml", "tiny")
    assert cluster.applied == ["Service", "Deployment"]
    assert len(cluster.written) == 1
    assert events.seen == [("False", "Pending")]


async def test_an_event_is_made_when_ready_changes_and_not_otherwise(observe: Observe, carry_out: CarryOut) -> None:
    observed = observe(2)
    cluster = FakeCluster(observed, carry_out)
    reconciler, events = _reconciler(cluster)
    await reconciler.step("ml", "tiny")
    cluster.observed = replace(observed, pods=observed.pods[:1])
    await reconciler.step("ml", "tiny")
    cluster.observed = replace(observed, pods=(replace(observed.pods[0], name="renamed"),))
    await reconciler.step("ml", "tiny")
    assert events.seen == [("True", "Serving"), ("True", "Degraded")]


async def test_a_service_that_cannot_be_read_is_told_so_and_left_alone(carry_out: CarryOut) -> None:
    cluster = FakeCluster(Unreadable("spec.model: field required"), carry_out)
    reconciler, events = _reconciler(cluster)
    await reconciler.step("ml", "tiny")
    assert cluster.applied == []
    assert [(c.type, c.reason, c.message) for c in cluster.written[0].conditions] == [
        ("SpecValid", "Unreadable", "spec.model: field required"),
        ("Ready", "Unreadable", "spec.model: field required"),
    ]
    assert events.seen == [("False", "Unreadable")]


async def test_a_service_that_is_gone_is_no_work(carry_out: CarryOut) -> None:
    cluster = FakeCluster(None, carry_out)
    reconciler, events = _reconciler(cluster)
    await reconciler.step("ml", "tiny")
    assert (cluster.applied, cluster.written, events.seen) == ([], [], [])


@dataclass
class FakePools:
    body: dict[str, Any] | None
    written: list[WantedPoolStatus] = field(default_factory=list)

    async def read(self, name: str) -> Mapping[str, Any] | None:
        return self.body

    async def write_status(self, body: Mapping[str, Any], status: WantedPoolStatus) -> bool:
        self.written.append(status)
        return True

    async def ensure_default(self) -> bool:
        return True


class NoNodes:
    async def wait_synced(self) -> None:
        return None

    def totals(self) -> list[NodeTotals]:
        return []


async def test_a_pool_that_is_gone_is_not_reported() -> None:
    pools = FakePools(None)
    await PoolReconciler(pools, NoNodes()).step("a")
    assert pools.written == []
    pools.body = {}
    await PoolReconciler(pools, NoNodes()).step("a")
    assert [s.nodes for s in pools.written] == [0]
