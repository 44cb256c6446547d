"""The agent's own loops: look at the driver, find the pool, tell the kubelet, cut regions, clean up. Each is level-triggered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

from mica_api.models import VGPUPool
from mica_api.pools import resolve_pool
from mica_api.sharing import Sharing
from mica_device_plugin.cluster import Cluster
from mica_device_plugin.devices import device_lists
from mica_device_plugin.discovery import Discovery, DriverProblem, Survey
from mica_device_plugin.feed import DeviceFeed
from mica_device_plugin.files import Files
from mica_device_plugin.janitor import Janitor
from mica_device_plugin.keeper import LimitsKeeper
from mica_device_plugin.node_cache import load_pool, store_pool
from mica_device_plugin.slices import Cut, SliceStore
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import PoolChoice, SliceKey, SliceOwner
from mica_runtime.logging import get_logger
from mica_runtime.waiting import woken

REAL_DRIVER: Final = (
    "this version starts containers on simulated GPUs only (MICA_SIMULATED=true); the cards are listed but not handed out"
)
_RETRY_LIMITS_S: Final = 10.0
_log = get_logger(__name__)


class DriverWatch:
    """Brings the driver's answers into the state."""

    def __init__(self, *, state: AgentState, discovery: Discovery) -> None:
        self._state = state
        self._discovery = discovery

    async def look(self) -> None:
        """One survey. A driver that does not answer makes every known card unhealthy until it does again."""
        before, problem_before = self._state.inventory, self._state.driver_problem
        try:
            self._state.survey = _usable(await asyncio.to_thread(self._discovery.survey))
            self._state.driver_problem = "" if self._state.survey.inventory.simulated else REAL_DRIVER
        except DriverProblem as problem:
            self._state.driver_problem = str(problem)
            if self._state.survey is not None:
                self._state.survey = _all_sick(self._state.survey)
        if self._state.driver_problem != problem_before and self._state.driver_problem:
            _log.error("driver cannot be used", problem=self._state.driver_problem)
        if (self._state.inventory, self._state.driver_problem) != (before, problem_before):
            _log.info("inventory changed", gpus=[(g.uuid, g.healthy) for g in self._state.gpus])
            self._state.changed()

    async def run(self, *, every: float) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(every)


class PoolWatch:
    """Finds out which pool the node is in, and remembers it for a start without API server."""

    def __init__(self, *, state: AgentState, cluster: Cluster, path: Path, files: Files) -> None:
        self._state = state
        self._cluster = cluster
        self._path = path
        self._files = files
        self._wake = asyncio.Event()

    def recall(self) -> None:
        """Take over what is remembered, if anything."""
        pool = load_pool(self._path, self._files)
        if pool is not None:
            self._state.pool, self._state.pool_known = pool, True

    def wake(self) -> None:
        """Something at the API server changed."""
        self._wake.set()

    def resolve(self) -> None:
        """Bring the state up to date with pools and labels as they are."""
        node = self._cluster.node()
        if not self._cluster.synced or node is None:
            return
        found = resolve_pool(node.labels, self._cluster.pools())
        pool = pool_choice(found) if found is not None else None
        if self._state.pool_known and pool == self._state.pool:
            return
        _log.info("pool of the node", pool=pool.name if pool else None, sharing=str(pool.sharing) if pool else None)
        self._state.pool, self._state.pool_known = pool, True
        try:
            store_pool(self._path, pool, self._files)
        except OSError as error:
            _log.error("pool cannot be remembered", error=str(error))
        self._state.changed()

    async def run(self) -> None:
        """Resolve until cancelled."""
        while True:
            self._wake.clear()
            self.resolve()
            await woken(self._wake, within=1.0)


def pool_choice(pool: VGPUPool) -> PoolChoice:
    """A pool as the agent needs it."""
    spec = pool.spec
    return PoolChoice(
        pool.metadata.name,
        Sharing(spec.max_slices_per_gpu, spec.memory_overcommit_percent, spec.cores_overcommit_percent),
        spec.mode,
        {gpu.uuid: gpu.mode for gpu in spec.gpus or ()},
        spec.compute.rules(),
    )


async def feed_devices(*, state: AgentState, feed: DeviceFeed) -> None:
    """Publish device lists whenever the state changes, until cancelled."""
    wake = asyncio.Event()
    state.on_change(wake.set)
    while True:
        wake.clear()
        await refresh_feed(state=state, feed=feed)
        await wake.wait()


async def refresh_feed(*, state: AgentState, feed: DeviceFeed) -> None:
    """Bring the device lists up to date with the state."""
    await feed.publish(device_lists(state.gpus, pool=state.pool, pins=state.pins.values()))


async def keep_limits(keeper: LimitsKeeper, *, wake: asyncio.Event, pause: float) -> None:
    """Bring the limits of running containers up to date after changes, ``pause`` seconds apart at least, until cancelled."""
    while True:
        await woken(wake, within=_RETRY_LIMITS_S)
        wake.clear()
        await keeper.keep()
        await asyncio.sleep(pause)


async def keep_clean(janitor: Janitor, *, wake: asyncio.Event, every: float, pause: float) -> None:
    """Sweep after changes, ``pause`` seconds apart at least, and every ``every`` seconds, until cancelled."""
    while True:
        wake.clear()
        await janitor.sweep()
        await asyncio.sleep(pause)
        await woken(wake, within=every)


class RegionWatch:
    """Cuts regions that containers made longer. Says so, or why it cannot, once for each container: none can flood the log."""

    def __init__(self, store: SliceStore) -> None:
        self._store = store
        self._told: dict[SliceKey, tuple[SliceOwner | None, frozenset[str]]] = {}
        self._problem = ""

    async def cut(self) -> None:
        """Look at every region once. What was said of slices that are gone, or of their former owners, is forgotten."""
        try:
            cuts = await asyncio.to_thread(self._store.cut_regions)
        except OSError as error:
            if str(error) != self._problem:
                _log.error("usage regions cannot be looked at", error=str(error))
            self._problem = str(error)
            return
        self._problem = ""
        self._told = {key: said for key, said in self._told.items() if key in cuts}
        for key, cut in cuts.items():
            if cut.surplus or cut.problem:
                self._tell(key, cut)

    async def run(self, *, every: float) -> None:
        """Cut until cancelled."""
        while True:
            await self.cut()
            await asyncio.sleep(every)

    def _tell(self, key: SliceKey, cut: Cut) -> None:
        owner, said = self._told.get(key, (cut.owner, frozenset()))
        said = said if owner == cut.owner else frozenset()
        if cut.problem in said:
            return
        self._told[key] = (cut.owner, said | {cut.problem})
        whose = {"pod_uid": cut.owner.pod_uid, "container": cut.owner.container} if cut.owner else {}
        if cut.problem:
            _log.error(
                "a container made its usage region longer, and it cannot be cut for now", key=key, error=cut.problem, **whose
            )
        else:
            _log.error(
                "a container made its usage region longer: cut off, now and from now on", key=key, bytes=cut.surplus, **whose
            )


def _usable(survey: Survey) -> Survey:
    """Cards that this version cannot hand out are not offered to anybody."""
    return survey if survey.inventory.simulated else _all_sick(survey)


def _all_sick(survey: Survey) -> Survey:
    gpus = tuple(replace(gpu, healthy=False) for gpu in survey.inventory.gpus)
    return Survey(replace(survey.inventory, gpus=gpus), {})
