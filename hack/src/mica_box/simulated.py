"""The simulated GPUs of a box: the configuration file of the simulated driver, and inventories for fake nodes. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mica_api import names

DRIVER_VERSION = "580.95.05"
MIB = 1 << 20
_NAMESPACE = uuid.UUID("6d696361-0000-4000-8000-000000000000")


@dataclass(frozen=True)
class SimulatedGPU:
    """One card. `memory_mib` in MiB; `numa_node` -1 = unknown."""

    uuid: str
    model: str = "NVIDIA H100 80GB HBM3"
    memory_mib: int = 80 * 1024
    sms: int = 132
    compute_capability: str = "9.0"
    numa_node: int = 0
    pci_bus_id: str = "00000000:18:00.0"


def gpu_uuid(node: str, index: int) -> str:
    """The same card has the same UUID in every run."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{node}/{index}')}"


def cards(node: str, count: int, *, model: str = SimulatedGPU.model, memory_mib: int = 80 * 1024) -> list[SimulatedGPU]:
    """`count` equal cards, the first half on NUMA node 0, the rest on 1."""
    return [
        SimulatedGPU(
            uuid=gpu_uuid(node, index),
            model=model,
            memory_mib=memory_mib,
            numa_node=0 if index < (count + 1) // 2 else 1,
            pci_bus_id=f"00000000:{0x18 + 16 * index:02x}:00.0",
        )
        for index in range(count)
    ]


def sim_config(gpus: Sequence[SimulatedGPU], links: Mapping[tuple[int, int], str] | None = None) -> str:
    """The driver's configuration file, version 1 (vgpu_shim/sim/README.md)."""
    lines = ["version=1", f"driver={DRIVER_VERSION}", f"gpus={len(gpus)}"]
    for index, gpu in enumerate(gpus):
        lines += [
            f"gpu.{index}.uuid={gpu.uuid}",
            f"gpu.{index}.model={gpu.model}",
            f"gpu.{index}.memory={gpu.memory_mib * MIB}",
            f"gpu.{index}.sms={gpu.sms}",
            f"gpu.{index}.cc={gpu.compute_capability}",
            f"gpu.{index}.numa={gpu.numa_node}",
            f"gpu.{index}.pci={gpu.pci_bus_id}",
            f"gpu.{index}.health=ok",
        ]
    lines += [f"link.{a}.{b}={kind}" for (a, b), kind in (links or {}).items()]
    return "\n".join(lines) + "\n"


def default_sim_config(node: str = "node1") -> str:
    """Two 80 GiB H100 with NVLink between them."""
    return sim_config(cards(node, 2), {(0, 1): "NV18"})


def vgpu_node(node: str, gpus: Sequence[SimulatedGPU], *, pool: str, max_slices: int) -> dict[str, Any]:
    """The VGPUNode that a fake node's agent would write."""
    inventory = [
        {
            "uuid": gpu.uuid,
            "index": index,
            "model": gpu.model,
            "memoryMiB": gpu.memory_mib,
            "numaNode": gpu.numa_node,
            "pciBusID": gpu.pci_bus_id,
            "health": "Healthy",
        }
        for index, gpu in enumerate(gpus)
    ]
    return {
        "apiVersion": names.API_VERSION,
        "kind": "VGPUNode",
        "metadata": {"name": node},
        "spec": {
            "pool": pool,
            "maxSlicesPerGPU": max_slices,
            "driver": {"version": DRIVER_VERSION, "simulated": True},
            "gpus": inventory,
        },
        "status": {"summary": {"gpus": len(inventory), "model": gpus[0].model if gpus else ""}},
    }


def advertised(gpus: Sequence[SimulatedGPU], *, max_slices: int) -> dict[str, str]:
    """The resources that a node agent advertises for these cards: slots, percents, whole GiB."""
    return {
        names.RESOURCE_NUMBER: str(len(gpus) * max_slices),
        names.RESOURCE_CORES: str(len(gpus) * 100),
        names.RESOURCE_MEMORY: str(sum(gpu.memory_mib // 1024 for gpu in gpus)),
    }
