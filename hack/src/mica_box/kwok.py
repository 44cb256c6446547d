"""Fake nodes: Node objects that kwok keeps Ready, with GPUs that only the API server believes in."""

from __future__ import annotations

import json
from typing import Any

from mica_box.box import Box
from mica_box.plan import Plan
from mica_box.progress import step
from mica_box.simulated import SimulatedGPU, advertised, cards, vgpu_node

FAKE = {"kwok.x-k8s.io/node": "fake"}
TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
LABELS = {"type": "kwok", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
MAX_SLICES = 10
READY_S = 60


def node_name(index: int) -> str:
    return f"kwok-{index}"


def node(name: str, resources: dict[str, str], *, address: str) -> dict[str, Any]:
    """A Node that kwok adopts: its allocatable is what is written here. Tainted: only who tolerates it pretends to run."""
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", **resources}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": FAKE,
            "labels": {**LABELS, "kubernetes.io/hostname": name},
        },
        "spec": {"taints": [TAINT]},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": address}],
        },
    }


def node_objects(plan: Plan, count: int, gpus: list[list[SimulatedGPU]], *, max_slices: int) -> list[dict[str, Any]]:
    """Nodes for the cards in `gpus` (one list per node; plain nodes where a list is empty)."""
    return [
        node(
            node_name(index),
            advertised(gpus[index], max_slices=max_slices) if gpus[index] else {},
            address=plan.box_ip,
        )
        for index in range(count)
    ]


def _create(box: Box, objects: list[dict[str, Any]]) -> None:
    """Create or replace, status included: of objects that exist, the API server takes a status through the subresource only."""
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=mica-box")
    for part in ((), ("--subresource=status",)):
        box.kubectl(*apply, *part, "-f", "-", stdin=body)


def _wait_ready(box: Box, count: int) -> None:
    if count:
        names = [f"node/{node_name(index)}" for index in range(count)]
        box.kubectl("wait", "--for=condition=Ready", f"--timeout={READY_S}s", *names)


def add_plain_nodes(box: Box, count: int) -> None:
    """Fake nodes without GPUs."""
    with step(f"box {box.name}: {count} fake nodes"):
        _create(box, node_objects(box.plan, count, [[]] * count, max_slices=MAX_SLICES))
        _wait_ready(box, count)


def add_kwok_nodes(
    box: Box,
    count: int,
    *,
    gpus: int = 4,
    model: str = SimulatedGPU.model,
    memory_mib: int = 80 * 1024,
    pool: str = "default",
    max_slices: int = MAX_SLICES,
) -> list[str]:
    """`count` fake nodes with `gpus` cards each, their allocatable and their VGPUNodes; returns the node names.

    The CRDs must be installed. Calling it again changes nodes to what is asked for now.
    """
    names = [node_name(index) for index in range(count)]
    inventories = [cards(name, gpus, model=model, memory_mib=memory_mib) for name in names]
    with step(f"box {box.name}: {count} fake nodes with {gpus} GPUs each"):
        _create(box, node_objects(box.plan, count, inventories, max_slices=max_slices))
        nodes = zip(names, inventories, strict=True)
        bodies = [vgpu_node(name, gpus_, pool=pool, max_slices=max_slices) for name, gpus_ in nodes]
        _create(box, bodies)
        _wait_ready(box, count)
    return names
