"""What the agent knows, in memory: rebuilt from the host's files at start, changed only by the loop's own tasks.

Holders of ``lock`` may change pins and owners together with the files; everybody else only reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from mica_device_plugin.discovery import Survey
from mica_device_plugin.slices import OnDisk
from mica_device_plugin.values import GPUDevice, Inventory, Pin, PoolChoice, RefusalRecord, SliceKey, SliceOwner
from mica_device_plugin.verify import NodeFacts


class AgentState:
    """One per process."""

    def __init__(self, *, node_name: str) -> None:
        self.node_name = node_name
        self.lock = asyncio.Lock()
        self.pins: dict[str, Pin] = {}
        self.owners: dict[SliceKey, SliceOwner] = {}
        self.refusals: dict[tuple[str, str], RefusalRecord] = {}
        self.fresh: dict[SliceKey, float] = {}
        self.survey: Survey | None = None
        self.driver_problem = "the driver has not been asked yet"
        self.unlimited_names: tuple[str, ...] = ()
        self.pool: PoolChoice | None = None
        self.pool_known = False
        self.registered = False
        self._listeners: list[Callable[[], None]] = []

    def load(self, disk: OnDisk) -> None:
        """Take over what the files say."""
        self.pins = dict(disk.pins)
        self.owners = {key: owner for key, owner in disk.slices.items() if owner is not None}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change; it must not block."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Tell everybody that something here is new."""
        for listener in self._listeners:
            listener()

    @property
    def inventory(self) -> Inventory | None:
        """The last inventory; None until the driver has answered once."""
        return self.survey.inventory if self.survey is not None else None

    @property
    def gpus(self) -> tuple[GPUDevice, ...]:
        """Cards as last seen; all unhealthy facts included, none when the driver never answered."""
        return self.survey.inventory.gpus if self.survey is not None else ()

    def facts(self) -> NodeFacts:
        """The node as decisions are checked against."""
        return NodeFacts(self.node_name, self.gpus, self.pool)

    def forget_refusals(self, alive: Iterable[str]) -> bool:
        """Drop refusals of pods that are gone; returns whether there were any."""
        kept_uids = set(alive)
        kept: Mapping[tuple[str, str], RefusalRecord] = {k: r for k, r in self.refusals.items() if r.pod_uid in kept_uids}
        dropped = len(kept) != len(self.refusals)
        self.refusals = dict(kept)
        return dropped
