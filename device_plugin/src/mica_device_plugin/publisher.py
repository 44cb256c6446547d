"""Keeps our VGPUNode at the API server equal to what the agent knows. Writes only when there is a difference.

A node that has shown no GPU gets no VGPUNode, or every node without GPUs would look like a broken GPU node. One that exists
already is kept up to date whatever happens to the driver: it is where people look for what is wrong.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from mica_api.models.common import merge_conditions
from mica_api.models.vgpu_node import VGPUNodeStatus
from mica_device_plugin.cluster import Cluster, NodeView
from mica_device_plugin.cordon import read_cordon
from mica_device_plugin.node_cpu import WRITE_EVERY_S, node_cpu, worth_writing
from mica_device_plugin.node_object import (
    Situation,
    build_spec,
    build_status,
    comparable,
    conditions,
    node_body,
    status_body,
)
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import Inventory
from mica_runtime.kube import KubeError
from mica_runtime.logging import get_logger
from mica_runtime.waiting import woken

_EVERY_S: Final = 10.0
_RETRY_S: Final = 1.0
_GATHER_S: Final = 0.05
_GOODBYE_S: Final = 0.4
_log = get_logger(__name__)


class Publisher:
    """One per process. ``now`` is the wall clock for condition times, ``clock`` a steady one in seconds."""

    def __init__(
        self, *, state: AgentState, cluster: Cluster, now: Callable[[], datetime], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = state
        self._cluster = cluster
        self._now = now
        self._clock = clock
        self._cpu_at = -math.inf
        self._wake = asyncio.Event()
        self._owner_uid = ""
        self.settled = False
        self._idle = ""
        state.on_change(self._wake.set)

    def wake(self) -> None:
        """Something at the API server changed."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._wake.clear()
            delay = _EVERY_S
            try:
                await self.publish()
            except KubeError as error:
                _log.warning("VGPUNode cannot be written", error=str(error))
                delay = _RETRY_S
            await woken(self._wake, within=delay)
            await asyncio.sleep(_GATHER_S)

    async def say_goodbye(self) -> None:
        """Say that this node takes no slices for now: kubelet would fail a pod that is bound while nobody serves it."""
        self._state.registered = False
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self.publish()
        except (KubeError, TimeoutError) as error:
            _log.warning("leaving without a word to the scheduler", error=str(error))

    async def publish(self) -> None:
        """Write what differs, once; afterwards ``settled`` is true, also when there is nothing to write. Raises KubeError."""
        node = self._cluster.node()
        if not self._cluster.synced or node is None or not self._state.pool_known:
            return
        stored = self._cluster.stored()
        if stored is None and not self._state.gpus:
            self._stay_silent()
            return
        situation = self._situation(node)
        name = self._state.node_name
        spec = build_spec(situation)
        if stored is None or stored.spec.to_wire() != spec.to_wire() or self._owner_uid != node.uid:
            await self._cluster.apply_node(node_body(name, node_uid=node.uid, spec=spec))
            self._owner_uid = node.uid
        before = stored.status if stored is not None else None
        generation = stored.metadata.generation if stored is not None else 1
        merged = merge_conditions(
            (before.conditions if before else None) or [],
            conditions(situation),
            generation=generation,
            now=self._now(),
        )
        status = build_status(situation).model_copy(update={"conditions": merged})
        if self._differs(before, status):
            self._cpu_at = self._clock()
            await self._cluster.apply_status(status_body(name, status))
        self.settled = True

    def _differs(self, before: VGPUNodeStatus | None, status: VGPUNodeStatus) -> bool:
        """Whether there is something to write. The CPU alone is that only now and then; with anything else it goes along."""
        if before is None:
            return True
        if comparable(before.model_copy(update={"cpu": None})) != comparable(status.model_copy(update={"cpu": None})):
            return True
        return worth_writing(before.cpu, status.cpu) and self._clock() - self._cpu_at >= WRITE_EVERY_S

    def _stay_silent(self) -> None:
        self.settled = True
        problem = self._state.driver_problem or "the driver lists none"
        if problem != self._idle:
            self._idle = problem
            _log.info("no GPU was seen on this node: nothing to offer, and no VGPUNode is written", driver=problem)

    def _situation(self, node: NodeView) -> Situation:
        state = self._state
        return Situation(
            inventory=state.inventory or Inventory("", False, ()),
            pool=state.pool,
            pins=tuple(state.pins.values()),
            refusals=tuple(state.refusals.values()),
            driver_problem=state.driver_problem,
            registered=state.registered,
            cordoned=read_cordon(node.annotations),
            unlimited_names=state.unlimited_names,
            cpu=node_cpu(node.cpu_milli, self._cluster.pods().values()),
        )
