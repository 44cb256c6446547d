"""Keeps the limits of running containers equal to what the pool and their pods' annotations say now.

A change of the pool's compute or overcommit, or of a pod's choice of compute, becomes a new limits file within a second; the
limiter reads it while the program runs. The cards, memory and cores that were decided never change here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from mica_api.compute import DEFAULT_COMPUTE, ComputeChoice, read_compute
from mica_api.request import InvalidRequest
from mica_device_plugin.cluster import Cluster
from mica_device_plugin.finishing import to_the_end
from mica_device_plugin.limits import Limits
from mica_device_plugin.slices import SliceStore
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import (
    GPUDevice,
    Pin,
    PinnedContainer,
    PodView,
    PoolChoice,
    RefusalRecord,
    SliceKey,
    SliceOwner,
    slice_key,
)
from mica_runtime.logging import get_logger

COMPUTE_NOT_APPLIED: Final = "ComputeNotApplied"
"""Reason of the event about a choice that does not hold as written."""
_log = get_logger(__name__)


class Warnings(Protocol):
    """Where words for a pod's owner go."""

    def warn(self, pod: RefusalRecord) -> None:
        """Tell them, once; must not block."""
        ...


class LimitsKeeper:
    """One per process."""

    def __init__(self, *, state: AgentState, store: SliceStore, cluster: Cluster, warnings: Warnings) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._warnings = warnings

    async def keep(self) -> None:
        """One look at every pin. Does nothing before pods and pool are known, nor on a node that no pool selects."""
        if not self._cluster.synced or self._state.pool is None:
            return
        async with self._state.lock:
            try:
                await to_the_end(self._keep())
            except OSError as error:
                _log.error("limits could not be brought up to date and are tried again later", error=str(error))

    async def _keep(self) -> None:
        pods = {pod.uid: pod for pod in self._cluster.pods().values()}
        before = list(self._state.pins.values())
        after = [await self._follow(pin, pods.get(pin.pod_uid)) for pin in before]
        for limits in await asyncio.to_thread(self._rewrite, self._wanted(after)):
            _log.info("limits changed", pod_uid=limits.owner.pod_uid, container=limits.owner.container, **_words(limits))
        if after != before:
            self._state.changed()

    async def _follow(self, pin: Pin, pod: PodView | None) -> Pin:
        """The pin with the choice that the pod's annotations make now; one that cannot be read changes nothing."""
        if pod is None:
            return pin
        try:
            choice = read_compute(pod.annotations)
        except InvalidRequest as error:
            self._warn(pin, f"{error}; what was chosen before stays in force")
            return pin
        self._warn_of_excess(pin, choice)
        if choice == pin.compute:
            return pin
        pin = replace(pin, compute=choice)
        await asyncio.to_thread(self._store.write_pin, pin)
        self._state.pins[pin.pod_uid] = pin
        return pin

    def _wanted(self, pins: Iterable[Pin]) -> list[tuple[SliceKey, Limits]]:
        """Limits of everything that was started; cards that the driver does not list keep what they have."""
        gpus, pool = self._state.gpus, self._state.pool
        known = {gpu.uuid for gpu in gpus}
        return [
            (slice_key(container.slots), container_limits(pin, container, gpus=gpus, pool=pool))
            for pin in pins
            for container in pin.containers
            if container.slots and known.issuperset(share.uuid for share in container.shares)
        ]

    def _rewrite(self, wanted: Iterable[tuple[SliceKey, Limits]]) -> list[Limits]:
        return [limits for key, limits in wanted if self._store.update_limits(key, limits)]

    def _warn_of_excess(self, pin: Pin, choice: ComputeChoice) -> None:
        pool = self._state.pool
        excess = pool.compute.excess(choice) if pool is not None else None
        if pool is not None and excess is not None:
            self._warn(pin, f"pool {pool.name} does not allow this choice of compute: {excess}; what it allows is in force")

    def _warn(self, pin: Pin, message: str) -> None:
        self._warnings.warn(RefusalRecord(pin.pod_uid, pin.namespace, pin.pod, "", COMPUTE_NOT_APPLIED, message))


def container_limits(pin: Pin, container: PinnedContainer, *, gpus: Iterable[GPUDevice], pool: PoolChoice | None) -> Limits:
    """Limits of a container on cards that are all among ``gpus``; without a pool nobody has agreed to any choice."""
    order: Mapping[str, int] = {gpu.uuid: gpu.index for gpu in gpus}
    compute = pool.compute.resolve(pin.compute) if pool is not None else DEFAULT_COMPUTE
    return Limits(
        owner=SliceOwner(pin.pod_uid, container.name),
        shares=tuple(sorted(container.shares, key=lambda share: order[share.uuid])),
        compute=compute,
        oversubscribe=pool is not None and pool.oversubscribes,
    )


def _words(limits: Limits) -> dict[str, object]:
    compute = limits.compute
    return {
        "policy": compute.policy,
        "priority": compute.priority,
        "weight": compute.weight,
        "oversubscribe": limits.oversubscribe,
    }
