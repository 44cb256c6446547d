"""Which GPUs the node has, asked through NVML (pynvml), real or simulated alike.

Cards are identified by UUID; NVML's order is the node's index. A card that fails does not stop the others: it stays in the list
as last known, unhealthy, until it answers again. Calls block: ``survey`` is meant for a thread. Readings are for metrics,
never for decisions.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import pynvml

from mica_device_plugin.values import GPUDevice, Inventory, Link, Reading
from mica_runtime.logging import get_logger

_MIB: Final = 2**20
_ANCESTORS: Final[Mapping[int, str]] = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
_NVLINKS: Final = 18
_log = get_logger(__name__)


class DriverProblem(RuntimeError):
    """The driver cannot be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at the node."""

    inventory: Inventory
    readings: Mapping[str, Reading]


class Discovery(Protocol):
    """Source of surveys."""

    def survey(self) -> Survey:
        """Look at every card now; blocks. Raises DriverProblem."""
        ...


class NvmlDiscovery:
    """NVML through pynvml. One instance per process, because pynvml is global."""

    def __init__(self, *, simulated: bool, library_dir: Path | None = None, sim_dir: Path | None = None) -> None:
        """``library_dir`` holds the simulated ``libnvidia-ml.so.1``; None leaves the search to the dynamic linker."""
        self._simulated = simulated
        self._library_dir = library_dir
        self._sim_dir = sim_dir
        self._ready = False
        self._known: dict[str, GPUDevice] = {}

    def survey(self) -> Survey:
        """As in Discovery."""
        try:
            self._initialise()
            version = str(pynvml.nvmlSystemGetDriverVersion())
            count = int(pynvml.nvmlDeviceGetCount())
        except (pynvml.NVMLError, OSError) as error:
            self._shut_down()
            raise DriverProblem(f"NVML does not answer: {error}") from error
        found: dict[str, GPUDevice] = {}
        readings: dict[str, Reading] = {}
        for index in range(count):
            self._look_at(index, found, readings)
        self._known = {**self._known, **found}
        lost = {uuid: replace(gpu, healthy=False) for uuid, gpu in self._known.items() if uuid not in found}
        cards = sorted({**found, **lost}.values(), key=lambda gpu: gpu.index)
        return Survey(Inventory(version, self._simulated, tuple(cards)), readings)

    def _initialise(self) -> None:
        if self._ready:
            return
        if self._library_dir is not None:
            os.environ["MICA_SIM_DIR"] = str(self._sim_dir or "")
            ctypes.CDLL(str(self._library_dir / "libnvidia-ml.so.1"))
        pynvml.nvmlInit()
        self._ready = True

    def _shut_down(self) -> None:
        if not self._ready:
            return
        self._ready = False
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            _log.warning("NVML cannot be shut down", error=str(error))

    def _look_at(self, index: int, found: dict[str, GPUDevice], readings: dict[str, Reading]) -> None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            known = self._known.get(uuid)
            found[uuid] = replace(known, healthy=True) if known else _describe(handle, uuid, index, int(memory.total))
            readings[uuid] = Reading(memory_used=int(memory.used), utilization=_utilization(handle))
        except pynvml.NVMLError as error:
            _log.warning("GPU does not answer", index=index, error=str(error))


def _describe(handle: Any, uuid: str, index: int, memory: int) -> GPUDevice:
    return GPUDevice(
        uuid=uuid,
        index=index,
        model=str(pynvml.nvmlDeviceGetName(handle)),
        memory_mib=memory // _MIB,
        numa=_numa(handle),
        pci=_pci(handle),
        links=_links(handle, uuid),
    )


def _utilization(handle: Any) -> float | None:
    try:
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:
        return None


def _pci(handle: Any) -> str | None:
    try:
        return str(pynvml.nvmlDeviceGetPciInfo(handle).busId)
    except pynvml.NVMLError:
        return None


def _numa(handle: Any) -> int | None:
    try:
        node = int(pynvml.nvmlDeviceGetNumaNodeId(handle))
    except pynvml.NVMLError:
        node = _numa_from_sysfs(_pci(handle))
    return node if 0 <= node < 1024 else None


def _numa_from_sysfs(pci: str | None) -> int:
    if pci is None:
        return -1
    domain, _, rest = pci.lower().partition(":")
    try:
        return int(Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node").read_text())
    except (OSError, ValueError):
        return -1


def _links(handle: Any, uuid: str) -> tuple[Link, ...]:
    links = []
    for index in range(int(pynvml.nvmlDeviceGetCount())):
        try:
            other = pynvml.nvmlDeviceGetHandleByIndex(index)
            other_uuid = str(pynvml.nvmlDeviceGetUUID(other))
            if other_uuid != uuid:
                links.append(Link(other_uuid, _link_type(handle, other)))
        except pynvml.NVMLError as error:
            _log.info("link between GPUs is unknown", gpu=uuid, index=index, error=str(error))
    return tuple(links)


def _link_type(handle: Any, other: Any) -> str:
    count = _nvlinks(handle, _pci(other))
    if count:
        return f"NV{count}"
    return _ANCESTORS.get(int(pynvml.nvmlDeviceGetTopologyCommonAncestor(handle, other)), "SYS")


def _nvlinks(handle: Any, other_pci: str | None) -> int:
    """NVLinks that are up and end at the other card, or at a switch, which connects every card."""
    count = 0
    for link in range(_NVLINKS):
        try:
            if not pynvml.nvmlDeviceGetNvLinkState(handle, link):
                continue
            remote = str(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId)
            count += remote == other_pci or _ends_at_switch(handle, link)
        except pynvml.NVMLError:
            continue
    return count


def _ends_at_switch(handle: Any, link: int) -> bool:
    kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link)
    return bool(kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH)
