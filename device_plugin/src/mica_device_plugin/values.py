"""Values that the parts of the agent hand to each other. No I/O and no decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NewType

from mica_api.allocation import GPUShare
from mica_api.compute import DEFAULT_RULES, NO_CHOICE, ComputeChoice, ComputeRules
from mica_api.models.vgpu_pool import GPUMode
from mica_api.sharing import NO_OVERCOMMIT, CardCapacity, Sharing

SliceKey = NewType("SliceKey", str)

KEY_LENGTH: Final = 32


def slice_key(ids: Iterable[str]) -> SliceKey:
    """Name of an id set on this node: independent of the order in which the kubelet lists the ids."""
    return SliceKey(hashlib.sha256(",".join(sorted(ids)).encode()).hexdigest()[:KEY_LENGTH])


@dataclass(frozen=True, slots=True)
class Link:
    """Connection to another card, in the notation of the vendor's topology matrix."""

    uuid: str
    type: str


@dataclass(frozen=True, slots=True)
class GPUDevice:
    """One card as discovered; ``numa`` is None when unknown."""

    uuid: str
    index: int
    model: str
    memory_mib: int
    numa: int | None = None
    pci: str | None = None
    healthy: bool = True
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the driver says about the node."""

    driver_version: str
    simulated: bool
    gpus: tuple[GPUDevice, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Momentary numbers of one card, for metrics only; None when the driver does not tell."""

    memory_used: int | None
    utilization: float | None


@dataclass(frozen=True, slots=True)
class PoolChoice:
    """The pool that selects this node, as far as the agent needs it; ``modes`` are single GPUs' by UUID, ``compute`` what it says
    about sharing a card's time."""

    name: str
    sharing: Sharing
    mode: GPUMode = "Shared"
    modes: Mapping[str, GPUMode] = field(default_factory=dict)
    compute: ComputeRules = DEFAULT_RULES

    @property
    def oversubscribes(self) -> bool:
        """Whether more memory is given out than the cards have."""
        return self.sharing.memory_overcommit_percent > NO_OVERCOMMIT

    def mode_of(self, uuid: str) -> GPUMode:
        """Mode of the GPU with this UUID."""
        return self.modes.get(uuid, self.mode)

    def capacity(self, gpu: GPUDevice) -> CardCapacity:
        """What may be given out of a card."""
        return self.sharing.capacity(gpu.memory_mib, exclusive=self.mode_of(gpu.uuid) == "Exclusive")


@dataclass(frozen=True, slots=True)
class PodView:
    """The part of a pod that the agent reads.

    ``finished``: no container of it will start again. ``cpu_milli``: its CPU request in thousandths of a core. ``labelled``:
    whether it is marked as a pod that asks for slices.
    """

    uid: str
    namespace: str
    name: str
    node: str
    annotations: Mapping[str, str]
    containers: tuple[tuple[str, Mapping[str, str]], ...]
    finished: bool = False
    cpu_milli: int = 0
    labelled: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an id set, according to the kubelet."""

    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True)
class SliceOwner:
    """The container that a slice directory belongs to."""

    pod_uid: str
    container: str


@dataclass(frozen=True, slots=True)
class PinnedContainer:
    """Decision for one app container; ``slots`` are the kubelet's ids, empty until the container was first started."""

    name: str
    shares: tuple[GPUShare, ...]
    slots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pin:
    """The decision of one pod as first verified; later edits of its annotations do not count.

    ``compute`` alone follows the annotations: what the pod was last seen to choose.
    """

    pod_uid: str
    namespace: str
    pod: str
    containers: tuple[PinnedContainer, ...]
    compute: ComputeChoice = NO_CHOICE

    def container(self, name: str) -> PinnedContainer | None:
        """Decision for the container called ``name``."""
        return next((c for c in self.containers if c.name == name), None)

    @property
    def keys(self) -> frozenset[SliceKey]:
        """Slices that containers of this pod were started with."""
        return frozenset(slice_key(c.slots) for c in self.containers if c.slots)


@dataclass(frozen=True, slots=True)
class RefusalRecord:
    """A container that was not let start, until it is or its pod is gone."""

    pod_uid: str
    namespace: str
    pod: str
    container: str
    reason: str
    message: str
