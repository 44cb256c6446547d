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
from typing import Any, Protocol

import pynvml

from mica_device_plugin.cards import CardReader
from mica_device_plugin.values import GPUDevice, Inventory, Reading
from mica_runtime.logging import get_logger

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

    def __init__(
        self, *, simulated: bool, library_dir: Path | None = None, sim_dir: Path | None = None, nvml: Any = pynvml
    ) -> None:
        """``library_dir`` holds the simulated ``libnvidia-ml.so.1``; None leaves the search to the dynamic linker."""
        self._nvml = nvml
        self._cards = CardReader(nvml)
        self._simulated = simulated
        self._library_dir = library_dir
        self._sim_dir = sim_dir
        self._ready = False
        self._known: dict[str, GPUDevice] = {}
        self._silent: set[int] = set()

    def survey(self) -> Survey:
        """As in Discovery."""
        try:
            self._initialise()
            version = str(self._nvml.nvmlSystemGetDriverVersion())
            count = int(self._nvml.nvmlDeviceGetCount())
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
        self._nvml.nvmlInit()
        self._ready = True

    def _shut_down(self) -> None:
        if not self._ready:
            return
        self._ready = False
        try:
            self._nvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            _log.warning("NVML cannot be shut down", error=str(error))

    def _look_at(self, index: int, found: dict[str, GPUDevice], readings: dict[str, Reading]) -> None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(self._nvml.nvmlDeviceGetUUID(handle))
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            known = self._known.get(uuid)
            found[uuid] = (
                replace(known, healthy=True)
                if known
                else self._cards.describe(handle, uuid=uuid, index=index, memory=int(memory.total))
            )
            readings[uuid] = Reading(memory_used=int(memory.used), utilization=self._cards.utilization(handle))
        except pynvml.NVMLError as error:
            if index not in self._silent:
                _log.warning("GPU does not answer", index=index, error=str(error))
            self._silent.add(index)
        else:
            self._silent.discard(index)
