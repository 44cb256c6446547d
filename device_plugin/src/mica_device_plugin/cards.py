"""One card through NVML: its lasting description and its links. Every part may be missing; NVML errors of a part stay inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pynvml

from mica_device_plugin.values import GPUDevice, Link
from mica_runtime.logging import get_logger

_MIB: Final = 2**20
_ANCESTORS: Final[Mapping[int, str]] = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
_NVLINKS: Final = 18
_log = get_logger(__name__)


class CardReader:
    """Reads cards through ``nvml``, a module with pynvml's functions."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def describe(self, handle: Any, *, uuid: str, index: int, memory: int) -> GPUDevice:
        """What does not change while the driver is loaded; a part that the driver does not tell is left out."""
        return GPUDevice(
            uuid=uuid,
            index=index,
            model=str(self._nvml.nvmlDeviceGetName(handle)),
            memory_mib=memory // _MIB,
            numa=self._numa(handle),
            pci=self._pci(handle),
            links=self._links(handle, uuid),
        )

    def utilization(self, handle: Any) -> float | None:
        """Share of the last sample in which any kernel ran; None when the driver does not tell."""
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except pynvml.NVMLError:
            return None

    def _pci(self, handle: Any) -> str | None:
        try:
            return str(self._nvml.nvmlDeviceGetPciInfo(handle).busId)
        except pynvml.NVMLError:
            return None

    def _numa(self, handle: Any) -> int | None:
        try:
            node = int(self._nvml.nvmlDeviceGetNumaNodeId(handle))
        except pynvml.NVMLError:
            node = _numa_from_sysfs(self._pci(handle))
        return node if 0 <= node < 1024 else None

    def _links(self, handle: Any, uuid: str) -> tuple[Link, ...]:
        links = []
        for index in range(int(self._nvml.nvmlDeviceGetCount())):
            try:
                other = self._nvml.nvmlDeviceGetHandleByIndex(index)
                other_uuid = str(self._nvml.nvmlDeviceGetUUID(other))
                if other_uuid != uuid:
                    links.append(Link(other_uuid, self._link_type(handle, other)))
            except pynvml.NVMLError as error:
                _log.info("link between GPUs is unknown", gpu=uuid, index=index, error=str(error))
        return tuple(links)

    def _link_type(self, handle: Any, other: Any) -> str:
        count = self._nvlinks(handle, self._pci(other))
        if count:
            return f"NV{count}"
        return _ANCESTORS.get(int(self._nvml.nvmlDeviceGetTopologyCommonAncestor(handle, other)), "SYS")

    def _nvlinks(self, handle: Any, other_pci: str | None) -> int:
        """NVLinks that are up and end at the other card, or at a switch, which connects every card."""
        count = 0
        for link in range(_NVLINKS):
            try:
                if not self._nvml.nvmlDeviceGetNvLinkState(handle, link):
                    continue
                remote = str(self._nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId)
                count += remote == other_pci or self._ends_at_switch(handle, link)
            except pynvml.NVMLError:
                continue
        return count

    def _ends_at_switch(self, handle: Any, link: int) -> bool:
        kind = self._nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link)
        return bool(kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH)


def _numa_from_sysfs(pci: str | None) -> int:
    if pci is None:
        return -1
    domain, _, rest = pci.lower().partition(":")
    try:
        return int(Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node").read_text())
    except (OSError, ValueError):
        return -1
