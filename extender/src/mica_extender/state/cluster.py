"""The watches that feed the ledger and leadership."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Final

from mica_api import names
from mica_extender.state.leadership import LeaseWatch
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import (
    LeaseRecord,
    NodeRecord,
    PodRecord,
    PoolRecord,
    decode_lease,
    decode_node,
    decode_pod,
    decode_pool,
)
from mica_runtime.reflector import Reflector, Source

_CUSTOM: Final = f"/apis/{names.API_VERSION}"


class Cluster:
    """Copies of slice pods, VGPUNodes and VGPUPools; with ``lease`` also of the scheduler's Lease in ``namespace``."""

    def __init__(self, source: Source, *, ledger: Ledger, lease: LeaseWatch | None, namespace: str) -> None:
        self._pods: Reflector[PodRecord] = Reflector(
            source,
            path="/api/v1/pods",
            params={"labelSelector": f"{names.LABEL_SLICE}={names.LABEL_SLICE_VALUE}"},
            decode=decode_pod,
            on_change=ledger.apply_pod,
        )
        self._nodes: Reflector[NodeRecord] = Reflector(
            source, path=f"{_CUSTOM}/vgpunodes", decode=decode_node, on_change=ledger.apply_node
        )
        self._pools: Reflector[PoolRecord] = Reflector(
            source, path=f"{_CUSTOM}/vgpupools", decode=decode_pool, on_change=ledger.apply_pool
        )
        self._lease = _lease_reflector(source, lease, namespace) if lease is not None else None

    @property
    def pods(self) -> Mapping[str, PodRecord]:
        """Slice pods by namespace/name; the same view for the life of the process."""
        return self._pods.objects

    def synced(self) -> bool:
        """Whether every list that decisions are made from is complete, also the one of Leases (which may be empty)."""
        lease = self._lease is None or self._lease.synced
        return lease and self._pods.synced and self._nodes.synced and self._pools.synced

    async def refresh(self) -> None:
        """Return once the copies hold every pod, and after that every VGPUNode, that was stored when this was called.

        In this order: a slice whose pod is gone must still be seen on its node.
        """
        await self._pods.refresh()
        await self._nodes.refresh()

    def parts(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What has to run for the copies to be kept."""
        parts = (self._pods.run(), self._nodes.run(), self._pools.run())
        return (*parts, self._lease.run()) if self._lease is not None else parts


def _lease_reflector(source: Source, lease: LeaseWatch, namespace: str) -> Reflector[LeaseRecord]:
    return Reflector(
        source,
        path=f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
        params={"fieldSelector": f"metadata.name={names.SCHEDULER_NAME}"},
        decode=decode_lease,
        on_change=lease.apply,
    )
