"""Values and fakes that the extender's unit tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from mica_api import names
from mica_api.allocation import encode_pod_allocation
from mica_api.request import ContainerRequest, PodRequest, canonical_resources, encode_request
from mica_extender.placement import Placement, choose
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import NodeRecord, PodRecord, decode_node, decode_pod
from mica_runtime.reflector import Change

PodBody = dict[str, Any]


def pod_body(
    name: str = "a",
    *,
    uid: str = "",
    containers: Sequence[ContainerRequest] = (ContainerRequest("main", number=1, cores=20, memory_mib=3072),),
    annotations: Mapping[str, str] | None = None,
    node: str = "",
    revision: str = "1",
    **status: Any,
) -> PodBody:
    """An admitted pod as the API server stores it."""
    request = encode_request(PodRequest(tuple(containers)))
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid or f"uid-{name}",
            "resourceVersion": revision,
            "labels": {names.LABEL_SLICE: names.LABEL_SLICE_VALUE},
            "annotations": {names.ANNOTATION_REQUEST: request, **(annotations or {})},
        },
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            **({"nodeName": node} if node else {}),
            "containers": [
                {"name": c.name, "resources": {"limits": {k: str(v) for k, v in canonical_resources(c).items()}}}
                for c in containers
            ],
        },
        "status": {"phase": "Pending", **status},
    }


def node_body(
    name: str = "n1", *, gpus: int = 2, memory_mib: int = 81920, max_slices: int = 10, model: str = "NVIDIA A100", **status: Any
) -> dict[str, Any]:
    """A VGPUNode as the API server stores it."""
    cards = [
        {"uuid": f"GPU-{name}-{i}", "index": i, "model": model, "memoryMiB": memory_mib, "health": "Healthy"} for i in range(gpus)
    ]
    return {
        "metadata": {"name": name},
        "spec": {
            "pool": "default",
            "maxSlicesPerGPU": max_slices,
            "driver": {"version": "1"},
            "gpus": cards,
        },
        "status": status,
    }


class World:
    """A ledger, and the watches that feed it, by hand."""

    def __init__(self) -> None:
        self.gains = 0
        self.ledger = Ledger(self._gain)
        self.pods: dict[str, PodRecord] = {}
        self.nodes: dict[str, NodeRecord] = {}

    def _gain(self) -> None:
        self.gains += 1

    def see_pod(self, body: PodBody) -> PodRecord:
        """The watch shows a pod."""
        new = decode_pod(json.dumps(body).encode())
        old = self.pods.get(new.key)
        self.pods[new.key] = new
        self.ledger.apply_pod(Change(new.key, old, new))
        return new

    def lose_pod(self, key: str) -> None:
        """The watch shows that a pod is gone."""
        self.ledger.apply_pod(Change(key, self.pods.pop(key), None))

    def see_node(self, body: dict[str, Any]) -> NodeRecord:
        """The watch shows a VGPUNode."""
        new = decode_node(json.dumps(body).encode())
        old = self.nodes.get(new.name)
        self.nodes[new.name] = new
        self.ledger.apply_node(Change(new.name, old, new))
        return new

    def bound_body(self, body: PodBody, node: str) -> PodBody:
        """The pod as stored after a good bind to the node."""
        record = decode_pod(json.dumps(body).encode())
        state = self.ledger.node(node)
        assert record.shape is not None
        assert state is not None
        verdict = choose(record.shape, state)
        assert isinstance(verdict, Placement)
        annotations = encode_pod_allocation(pod_uid=record.uid, node=node, shares=verdict.shares)
        meta = body["metadata"]
        return {
            **body,
            "metadata": {
                **meta,
                "annotations": {**meta["annotations"], **annotations},
                "resourceVersion": f"{meta['resourceVersion']}1",
            },
            "spec": {**body["spec"], "nodeName": node},
        }

    def used(self, node: str) -> list[tuple[int, int, int]]:
        """(MiB, cores, slices) taken of each card."""
        state = self.ledger.node(node)
        assert state is not None
        return [(c.used_mib, c.used_cores, c.slices) for c in state.cards]


@pytest.fixture
def world() -> World:
    """An empty world with one node of two cards."""
    made = World()
    made.see_node(node_body("n1"))
    return made


@pytest.fixture
def make_pod() -> Callable[..., PodBody]:
    """``pod_body``."""
    return pod_body


@pytest.fixture
def make_node() -> Callable[..., dict[str, Any]]:
    """``node_body``."""
    return node_body
