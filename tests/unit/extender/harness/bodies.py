"""Objects of the model as the API server stores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mica_api import names
from mica_api.request import ContainerRequest, PodRequest, canonical_resources, encode_request

NAMESPACE = "default"
MEMORY = 10_000


def pod(name: str, *, uid: str, containers: Sequence[ContainerRequest]) -> dict[str, Any]:
    """An admitted pod with an owner that makes another one when it goes."""
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid,
            "labels": {names.LABEL_SLICE: names.LABEL_SLICE_VALUE},
            "annotations": {names.ANNOTATION_REQUEST: encode_request(PodRequest(tuple(containers)))},
            "ownerReferences": [{"controller": True}],
        },
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "containers": [
                {"name": c.name, "resources": {"limits": {k: str(v) for k, v in canonical_resources(c).items()}}}
                for c in containers
            ],
        },
        "status": {"phase": "Pending"},
    }


def node(name: str, *, gpus: int, max_slices: int) -> dict[str, Any]:
    """A VGPUNode whose agent holds nothing yet."""
    cards = [
        {"uuid": f"GPU-{name}-{i}", "index": i, "model": "A100", "memoryMiB": MEMORY, "health": "Healthy"} for i in range(gpus)
    ]
    return {
        "metadata": {"name": name},
        "spec": {"pool": "default", "maxSlicesPerGPU": max_slices, "driver": {"version": "1"}, "gpus": cards},
        "status": {},
    }


def lease(holder: str, *, transitions: int, renewed: int, duration_s: int) -> dict[str, Any]:
    """The scheduler's Lease; ``renewed`` is what its holder's clock showed, in seconds."""
    return {
        "metadata": {"name": names.SCHEDULER_NAME, "namespace": "mica-system"},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration_s,
            "renewTime": str(renewed),
            "leaseTransitions": transitions,
        },
    }
