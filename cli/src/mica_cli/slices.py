"""The cards of a cluster and the slices on them, as text. Pure: VGPUNode objects in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from mica_api.models.vgpu_node import GPU, HeldGPU, HeldSlice, VGPUNode
from mica_api.request import MAX_CORES
from mica_api.sharing import Sharing

HEADER = ("NODE", "GPU", "MODEL", "POOL", "HEALTH", "CORES", "MEMORY", "COMPUTE", "HOLDER")


class _NodeList(BaseModel):
    model_config = ConfigDict(extra="ignore")

    items: list[VGPUNode]


class UnreadableNodes(ValueError):
    """The list is not what this version of the command understands."""


def parse_nodes(body: str) -> list[VGPUNode]:
    """VGPUNodes of a list response. Raises UnreadableNodes."""
    try:
        return _NodeList.model_validate_json(body).items
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnreadableNodes(f"{place}: {first['msg']}; the cluster may run another version of Mica") from error


def slices_table(nodes: Iterable[VGPUNode]) -> list[str]:
    """One line per card, and below it one per slice on that card."""
    rows: list[Sequence[str]] = [HEADER]
    for node in sorted(nodes, key=lambda found: found.metadata.name):
        for gpu in sorted(node.spec.gpus, key=lambda found: found.index):
            rows.extend(_card(node, gpu))
    return _align(rows)


def _card(node: VGPUNode, gpu: GPU) -> list[Sequence[str]]:
    held = _held_on(node, gpu.uuid)
    used_cores = sum(share.cores for _, share in held)
    used_memory = sum(share.memory_mib for _, share in held)
    spec = node.spec
    sharing = Sharing(spec.max_slices_per_gpu, spec.memory_overcommit_percent, spec.cores_overcommit_percent)
    capacity = sharing.capacity(gpu.memory_mib, exclusive=gpu.mode == "Exclusive")
    card = (
        node.metadata.name,
        str(gpu.index),
        gpu.model,
        node.spec.pool,
        gpu.health,
        f"{used_cores}/{capacity.cores}",
        f"{_gib(used_memory)}/{_gib(capacity.memory_mib)}",
        "",
        f"{len(held)}/{capacity.slices} slice{'s' if capacity.slices != 1 else ''}",
    )
    return [card, *(_slice(held_slice, share) for held_slice, share in held)]


def _held_on(node: VGPUNode, uuid: str) -> list[tuple[HeldSlice, HeldGPU]]:
    slices = (node.status.slices if node.status else None) or []
    found = [(held, share) for held in slices for share in held.gpus if share.uuid == uuid]
    return sorted(found, key=lambda pair: (pair[0].namespace, pair[0].pod, pair[0].container))


def _slice(held: HeldSlice, share: HeldGPU) -> Sequence[str]:
    cores = f"{share.cores}" if share.cores else "no cap"
    holder = f"{held.namespace}/{held.pod} ({held.container})"
    return ("", "", "", "", "", cores, _gib(share.memory_mib), _compute(held, share), holder)


def _compute(held: HeldSlice, share: HeldGPU) -> str:
    """What decides about the slice's time: the policy of a cap, or the weight without one, and a class that is not the usual."""
    if held.compute is None:
        return ""
    if share.cores >= MAX_CORES:
        return "alone"
    share_of = held.compute.policy.lower() if share.cores else f"weight {held.compute.weight}"
    return share_of if held.compute.priority == "Normal" else f"{share_of}, {held.compute.priority.lower()}"


def _gib(mib: int) -> str:
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
