"""Carries out what ``cleanup`` decides: collects the signs of life, removes what has none. Level-triggered, safe to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from mica_device_plugin.cleanup import Evidence, Removal, plan_removal
from mica_device_plugin.cluster import Cluster
from mica_device_plugin.finishing import to_the_end
from mica_device_plugin.kubelet_state import KubeletState, KubeletUnavailable
from mica_device_plugin.slices import OnDisk, SliceStore
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import SliceKey
from mica_runtime.logging import get_logger

_FRESH_S: Final = 10.0
_log = get_logger(__name__)


class Janitor:
    """One per process. ``clock`` is monotonic, in seconds."""

    def __init__(
        self, *, state: AgentState, store: SliceStore, kubelet: KubeletState, cluster: Cluster, clock: Callable[[], float]
    ) -> None:
        self._state = state
        self._store = store
        self._kubelet = kubelet
        self._cluster = cluster
        self._clock = clock

    async def sweep(self) -> None:
        """Remove everything without a sign of life. Does nothing while a source of evidence is silent."""
        if not self._cluster.synced:
            return
        async with self._state.lock:
            try:
                await to_the_end(self._sweep())
            except KubeletUnavailable as error:
                _log.warning("cleanup waits for the kubelet", error=str(error))
            except OSError as error:
                _log.error("cleanup could not remove everything and goes on later", error=str(error))

    async def _sweep(self) -> None:
        disk = await asyncio.to_thread(self._store.load)
        evidence = await self._evidence(disk)
        removal = plan_removal(disk, evidence)
        dropped = self._state.forget_refusals(evidence.pods)
        try:
            await self._remove(removal)
        finally:
            if removal or dropped:
                self._state.load(await asyncio.to_thread(self._store.load))
                self._state.changed()

    async def _remove(self, removal: Removal) -> None:
        for key in removal.slices:
            await asyncio.to_thread(self._store.remove_slice, key)
            _log.info("slice removed", key=key)
        for uid in removal.pins:
            await asyncio.to_thread(self._store.remove_pin, uid)
            _log.info("decision forgotten", pod_uid=uid)
        for name in removal.damaged:
            await asyncio.to_thread(self._store.remove_damaged, name)
            _log.info("damaged pin removed", name=name)

    async def _evidence(self, disk: OnDisk) -> Evidence:
        now = self._clock()
        self._state.fresh = {key: since for key, since in self._state.fresh.items() if now - since < _FRESH_S}
        assigned = await self._kubelet.assignments()
        pods = frozenset(p.uid for p in self._cluster.pods().values() if not p.finished)
        doubtful = [key for key, owner in disk.slices.items() if owner is not None and owner.pod_uid not in pods]
        live = await asyncio.to_thread(self._live, doubtful)
        return Evidence(pods=pods, assigned=assigned, live=live, fresh=frozenset(self._state.fresh))

    def _live(self, keys: list[SliceKey]) -> frozenset[SliceKey]:
        return frozenset(key for key in keys if self._store.is_live(key))
