"""Puts the parts of the agent together and runs them. Only wiring: who knows whom."""

from __future__ import annotations

import asyncio
import logging as stdlib_logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from mica_api import names
from mica_api.allocation import GPUShare
from mica_device_plugin.cdi import Bind, Edits, allocate_binds, simulated_edits
from mica_device_plugin.cluster import ApiCluster, Cluster
from mica_device_plugin.discovery import Discovery, NvmlDiscovery
from mica_device_plugin.driver_names import lacking
from mica_device_plugin.events import EventReporter
from mica_device_plugin.feed import DeviceFeed
from mica_device_plugin.files import Files, HostFiles, sweep_temporaries
from mica_device_plugin.gate import SLOT_WAIT_S, StartGate
from mica_device_plugin.install import (
    install_config,
    install_library,
    install_simulator,
    missing_files,
    refuse_simulation_beside_real_driver,
)
from mica_device_plugin.janitor import Janitor
from mica_device_plugin.keeper import LimitsKeeper
from mica_device_plugin.kubelet_state import KubeletState, LocalKubelet
from mica_device_plugin.loops import (
    DriverWatch,
    PoolWatch,
    RegionWatch,
    feed_devices,
    keep_clean,
    keep_limits,
    refresh_feed,
)
from mica_device_plugin.metrics import AgentMetrics, NodeCollector
from mica_device_plugin.publisher import Publisher
from mica_device_plugin.registrar import Registrar
from mica_device_plugin.servicer import DevicePlugin, SlotPlugin
from mica_device_plugin.settings import AgentSettings, Layout
from mica_device_plugin.slices import SliceStore
from mica_device_plugin.state import AgentState
from mica_device_plugin.values import RefusalRecord, SliceKey
from mica_device_plugin.verify import Reason
from mica_runtime import logging
from mica_runtime.http import admin_app, serve
from mica_runtime.kube import KubeClient
from mica_runtime.logging import get_logger
from mica_runtime.service import run_parts

COMPONENT: Final = "node-agent"
_LOOK_EVERY_S: Final = 1.0
_SWEEP_EVERY_S: Final = 3.0
_CUT_EVERY_S: Final = 0.25
_SWEEP_PAUSE_S: Final = 0.3
_UMASK: Final = 0o022
_log = get_logger(__name__)


async def start() -> None:
    """Run the agent until SIGTERM. Raises SettingsError, InstallError, RegistrationRefused and what else ends it."""
    settings = AgentSettings.from_environment()
    logging.configure(component=COMPONENT, level=settings.log_level)
    stdlib_logging.getLogger("watchfiles").setLevel(stdlib_logging.WARNING)
    os.umask(_UMASK)
    files = HostFiles()
    installed = await asyncio.to_thread(install, settings, files)
    async with await KubeClient.connect(settings.kubeconfig) as client:
        cluster = ApiCluster(client, node_name=settings.node_name)
        agent = Agent(settings, installed=installed, cluster=cluster, files=files)
        await agent.run()


class Installed:
    """Directories on the host that containers are given files from; ``simulator`` is None on real nodes."""

    def __init__(self, *, library: Path, simulator: Path | None) -> None:
        self.library = library
        self.simulator = simulator


def install(settings: AgentSettings, files: Files, *, root: Path = Path("/")) -> Installed:
    """Put libraries in place; blocks. Raises InstallError, OSError."""
    layout = settings.layout()
    libraries, simulators = layout.lib / "lib", layout.lib / "sim"
    for directory in (layout.pins, layout.cdi, layout.lib, settings.sim_dir, libraries, simulators):
        sweep_temporaries(directory)
    library = install_library(source=settings.lib_dir, target=libraries, files=files)
    if not settings.simulated:
        return Installed(library=library, simulator=None)
    refuse_simulation_beside_real_driver(root)
    simulator = install_simulator(source=settings.sim_lib_dir, target=simulators, files=files)
    files.make_dir(settings.sim_dir)
    if settings.sim_config is not None:
        _configure_simulator(settings.sim_config, settings, files)
    return Installed(library=library, simulator=simulator)


def _configure_simulator(source: Path, settings: AgentSettings, files: Files) -> None:
    layout, target = settings.layout(), settings.sim_dir / "config"
    held = bool(files.names(layout.pins))
    if not install_config(source=source, target=target, copied=layout.copied_config, held=held, files=files):
        _log.warning(
            "simulated cards stay as they were: the configuration is new, but slices are held on this node; "
            "delete its pods on slices and restart the agent",
            config=str(target),
        )


class Agent:
    """All parts of one process."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        installed: Installed,
        cluster: Cluster,
        files: Files,
        discovery: Discovery | None = None,
        slot_wait: float = SLOT_WAIT_S,
    ) -> None:
        self._settings = settings
        self._installed = installed
        self._layout: Layout = settings.layout()
        self._files = files
        self._slot_wait = slot_wait
        self._sweep = asyncio.Event()
        self._outdated = asyncio.Event()
        self.state = AgentState(node_name=settings.node_name)
        self.state.on_change(self._outdated.set)
        self.cluster = cluster
        cluster.on_change(self._cluster_changed)
        self.store = SliceStore(self._layout, files)
        self.publisher = Publisher(state=self.state, cluster=self.cluster, now=_now)
        self.events = EventReporter(cluster=self.cluster, node_name=settings.node_name, now=_now)
        self.keeper = LimitsKeeper(state=self.state, store=self.store, cluster=self.cluster, warnings=self.events)
        self.feed = DeviceFeed()
        self.registry = CollectorRegistry()
        self.metrics = AgentMetrics(self.registry)
        self.registry.register(NodeCollector(state=self.state, layout=self._layout))
        self.registrar = Registrar(directory=self._layout.device_plugins, registered=self._registered)
        self.pool_watch = PoolWatch(state=self.state, cluster=self.cluster, path=self._layout.node_file, files=files)
        self._discovery = discovery or NvmlDiscovery(
            simulated=settings.simulated, library_dir=installed.simulator, sim_dir=settings.sim_dir
        )

    async def run(self) -> None:
        """Run until SIGTERM or until a part fails."""
        app = admin_app(component=COMPONENT, registry=self.registry, ready=self.ready_checks())
        admin = serve(app, host=self._settings.admin_host, port=self._settings.admin_port)
        try:
            await run_parts(admin, *await self.prepare())
        finally:
            await self.publisher.say_goodbye()

    async def prepare(self) -> list[Coroutine[Any, Any, None]]:
        """Rebuild what is known and look at the cards once; returns the parts to run together."""
        self.state.load(await asyncio.to_thread(self.store.load))
        self.state.unlimited_names = await asyncio.to_thread(self._compare_with_driver)
        self.pool_watch.recall()
        driver = DriverWatch(state=self.state, discovery=self._discovery)
        await driver.look()
        kubelet = LocalKubelet(socket=self._layout.pod_resources_socket, checkpoint=self._layout.checkpoint)
        janitor = Janitor(state=self.state, store=self.store, kubelet=kubelet, cluster=self.cluster, clock=time.monotonic)
        return [
            self.cluster.run(),
            driver.run(every=_LOOK_EVERY_S),
            self.pool_watch.run(),
            feed_devices(state=self.state, feed=self.feed),
            self._be_a_plugin(kubelet),
            self.publisher.run(),
            self.events.run(),
            keep_limits(self.keeper, wake=self._outdated, pause=_SWEEP_PAUSE_S),
            RegionWatch(self.store).run(every=_CUT_EVERY_S),
            keep_clean(janitor, wake=self._sweep, every=_SWEEP_EVERY_S, pause=_SWEEP_PAUSE_S),
        ]

    async def _be_a_plugin(self, kubelet: KubeletState) -> None:
        """Register once the lists are known: an empty list at a kubelet restart would fail pods that are bound here."""
        known = asyncio.Event()
        self.state.on_change(lambda: known.set() if self.state.pool_known else None)
        if not self.state.pool_known:
            await known.wait()
        await refresh_feed(state=self.state, feed=self.feed)
        gate = StartGate(
            state=self.state,
            store=self.store,
            kubelet=kubelet,
            cluster=self.cluster,
            edits_for=self._edits_for,
            missing=self._missing,
            reporter=_CountingReporter(self.events, self.metrics),
            slot_wait=self._slot_wait,
        )
        slots = SlotPlugin(
            feed=self.feed,
            stream_ended=self.registrar.stream_ended,
            prepare=self._prepare,
            admit=gate.admit,
            duration=self.metrics.start_seconds,
        )
        amounts = [
            DevicePlugin(resource, feed=self.feed, stream_ended=self.registrar.stream_ended)
            for resource in (names.RESOURCE_CORES, names.RESOURCE_MEMORY)
        ]
        await self.registrar.run([slots, *amounts])

    async def _prepare(self, key: SliceKey) -> tuple[Bind, ...]:
        self.state.fresh[key] = time.monotonic()
        await asyncio.to_thread(self.store.prepare, key)
        return allocate_binds(
            library=self._installed.library,
            limits=self._layout.limits_dir(key),
            region=self._layout.region_file(key),
            arbiter=self._layout.arbiter_dir,
            library_dir=self._settings.library_dir,
        )

    def _edits_for(self, shares: Sequence[GPUShare]) -> Edits:
        if self._installed.simulator is None:
            raise AssertionError("cards of real nodes are never healthy in this version")
        inventory = self.state.inventory
        return simulated_edits(
            uuids=[share.uuid for share in shares],
            driver=self._installed.simulator,
            library=self._installed.library,
            sim_dir=self._settings.sim_dir,
            library_dir=self._settings.library_dir,
            driver_version=inventory.driver_version if inventory else "",
        )

    def _compare_with_driver(self) -> tuple[str, ...]:
        """Functions that the driver has and the limiter lacks; blocks. A real driver is not looked at: it is not handed out."""
        simulator = self._installed.simulator
        driver = self._files.read(simulator / "libcuda.so.1") if simulator is not None else None
        limiter = self._files.read(self._installed.library / "libmica.so")
        found = lacking(driver=driver or b"", limiter=limiter or b"")
        if found:
            _log.warning("the driver has functions that the limiter lacks", count=len(found), functions=list(found[:20]))
        return found

    def _missing(self, host_paths: Sequence[Path]) -> list[str]:
        named = [path for path in host_paths if path.is_relative_to(self._layout.lib)]
        gone = [str(path) for path in named if not self._files.is_file(path)]
        return gone or missing_files(self._installed.library, self._files)

    def ready_checks(self) -> dict[str, Callable[[], bool]]:
        """Named checks of readiness."""
        return {
            "caches": lambda: self.cluster.synced,
            "kubelet": lambda: self.state.registered,
            "vgpunode": lambda: self.publisher.settled,
            "library": lambda: not missing_files(self._installed.library, self._files),
        }

    def _registered(self, registered: bool) -> None:
        if registered:
            self.metrics.registrations.inc()
        self.state.registered = registered
        self.state.changed()

    def _cluster_changed(self) -> None:
        self.publisher.wake()
        self.pool_watch.wake()
        self._sweep.set()
        self._outdated.set()


class _CountingReporter:
    """Counts refusals on their way to the events."""

    def __init__(self, events: EventReporter, metrics: AgentMetrics) -> None:
        self._events = events
        self._metrics = metrics

    def warn(self, pod: RefusalRecord) -> None:
        """As in Reporter."""
        if pod.reason in set(Reason):
            self._metrics.refusals.labels(pod.reason).inc()
        self._events.warn(pod)


def _now() -> datetime:
    return datetime.now(UTC)
