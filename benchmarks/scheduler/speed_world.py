"""The cluster of the speed benchmark: 5,000 nodes of 8 GPUs, 40,000 running GPU pods, and the pods that ask to be placed.

Bodies as an API server and a kube-scheduler send them. Nodes are nearly full for the large shapes and have room for small ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mica_api import names
from mica_api.allocation import GPUShare, encode_pod_allocation
from mica_api.request import ContainerRequest, PodRequest, canonical_resources, encode_request

NODES: Final = 5_000
GPUS: Final = 8
ROOMY_EVERY: Final = 62
"""One node in so many has room for the large shapes: 81 of 5,000."""
MODELS: Final = (("NVIDIA A100-SXM4-80GB", 81920), ("NVIDIA H100 80GB HBM3", 81559), ("NVIDIA L40S", 46068))
SHAPES: Final = 100
Body = dict[str, Any]


def node_name(index: int) -> str:
    """Name of a node."""
    return f"gpu-node-{index:05d}.example"


def gpu_uuid(node: int, card: int) -> str:
    """UUID of a card, as long as a real one."""
    return f"GPU-{node:08x}-0000-4000-8000-{card:012x}"


@dataclass(frozen=True, slots=True)
class Running:
    """A running pod: what it holds on which card."""

    serial: int
    node: int
    card: int

    @property
    def share(self) -> GPUShare:
        """What it holds."""
        memory = MODELS[self.node % len(MODELS)][1]
        busy = self.node % ROOMY_EVERY != 0
        part = (55 + self.card) if busy else 8
        return GPUShare(gpu_uuid(self.node, self.card), memory * part // 100, 60 if busy else 10)

    @property
    def uid(self) -> str:
        """Pod uid."""
        return f"{self.serial:08x}-1111-4222-8333-444444444444"


def request_body(name: str, uid: str, containers: Sequence[ContainerRequest], annotations: dict[str, str], cpu: str) -> Body:
    """An admitted pod that waits, about 2 KB."""
    return {
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": uid,
            "resourceVersion": "77",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {names.LABEL_SLICE: names.LABEL_SLICE_VALUE, "app": "inference", "pod-template-hash": "6f7d8c9b5"},
            "annotations": {names.ANNOTATION_REQUEST: encode_request(PodRequest(tuple(containers))), **annotations},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name[:-6], "uid": uid, "controller": True}
            ],
        },
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "serviceAccountName": "default",
            "terminationGracePeriodSeconds": 30,
            "tolerations": [
                {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                for what in ("not-ready", "unreachable")
            ],
            "containers": [
                {
                    "name": c.name,
                    "image": "registry.example/inference/server:1.2.3",
                    "args": ["serve", "--port=8000", "--model=/models/current", "--max-batch=32"],
                    "env": [{"name": f"SETTING_{i}", "value": "x" * 24} for i in range(8)],
                    "resources": {
                        "limits": {k: str(v) for k, v in canonical_resources(c).items()} | {"memory": "16Gi"},
                        "requests": {k: str(v) for k, v in canonical_resources(c).items()} | {"cpu": cpu, "memory": "16Gi"},
                    },
                    "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
                }
                for c in containers
            ],
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"},
    }


def running_body(pod: Running, revision: int, *, ready: bool = True) -> Body:
    """A bound pod as the API server stores it."""
    share = pod.share
    wanted = ContainerRequest("main", number=1, cores=share.cores, memory_mib=share.memory_mib)
    decided = encode_pod_allocation(pod_uid=pod.uid, node=node_name(pod.node), shares=[[share]])
    body = request_body(f"serve-{pod.serial:08x}", pod.uid, [wanted], decided, "2")
    body["metadata"]["resourceVersion"] = str(revision)
    body["spec"]["nodeName"] = node_name(pod.node)
    state = "True" if ready else "False"
    body["status"] = {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "hostIP": "192.168.1.1",
        "conditions": [
            {"type": kind, "status": state, "lastTransitionTime": "2026-01-01T00:00:09Z"}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
    }
    return body


def node_body(index: int, pods: Sequence[Running], revision: int) -> Body:
    """A VGPUNode with what its agent reports."""
    model, memory = MODELS[index % len(MODELS)]
    gpus = [
        {"uuid": gpu_uuid(index, i), "index": i, "model": model, "memoryMiB": memory, "numaNode": i // 4, "health": "Healthy"}
        for i in range(GPUS)
    ]
    held = [
        {
            "podUID": pod.uid,
            "namespace": "team-a",
            "pod": f"serve-{pod.serial:08x}",
            "container": "main",
            "gpus": [{"uuid": pod.share.uuid, "memoryMiB": pod.share.memory_mib, "cores": pod.share.cores}],
        }
        for pod in pods
    ]
    return {
        "metadata": {"name": node_name(index), "resourceVersion": str(revision)},
        "spec": {"pool": "default", "maxSlicesPerGPU": 10, "driver": {"version": "580.65.06"}, "gpus": gpus},
        "status": {
            "cpu": {"allocatableMilli": 128_000, "requestedMilli": 4_000},
            "slices": held,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def small_shapes() -> list[Body]:
    """100 pods that fit nearly everywhere: 60 fractions, 15 of several GPUs, 15 with selectors, 10 of two containers."""
    return [_shape("small", i, cores=5 + i % 25, gib=2 + i % 9) for i in range(SHAPES)]


def large_shapes() -> list[Body]:
    """The same mix of pods that fit on one node in sixty at most."""
    return [_shape("large", i, cores=45 + i % 30, gib=28 + i % 6) for i in range(SHAPES)]


def fresh_shape(serial: int) -> Body:
    """A pod of a shape that was never seen before."""
    wanted = ContainerRequest("main", number=1, cores=10, memory_mib=1025 + serial)
    return request_body(f"fresh-{serial:06d}", f"fresh-{serial}", [wanted], {}, "1")


def _shape(kind: str, index: int, *, cores: int, gib: int) -> Body:
    wanted = [ContainerRequest("main", number=1, cores=cores, memory_mib=gib * 1024)]
    annotations: dict[str, str] = {}
    if 60 <= index < 75:
        wanted = [ContainerRequest("main", number=2 + 2 * (index % 2), cores=cores, memory_mib=gib * 1024)]
    elif 75 <= index < 80:
        annotations[names.ANNOTATION_USE_MODEL] = ("A100", "H100", "L40S")[index % 3]
    elif 80 <= index < 85:
        annotations[names.ANNOTATION_AVOID_MODEL] = ("A100", "H100", "L40S")[index % 3]
    elif 85 <= index < 90:
        annotations[names.ANNOTATION_NODE_POLICY] = ("binpack", "spread")[index % 2]
        annotations[names.ANNOTATION_GPU_POLICY] = ("spread", "binpack")[index % 2]
    elif index >= 90:
        wanted.append(ContainerRequest("side", number=1, cores=3 + index % 4, memory_mib=1024))
    return request_body(f"{kind}-{index:03d}-abcde", f"{kind}-{index}", wanted, annotations, f"{1 + index % 4}")


def arguments(pod: Body, nodes: Sequence[str]) -> bytes:
    """What kube-scheduler sends for filter and prioritize."""
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": list(nodes)}, separators=(",", ":")).encode()


class Cluster:
    """The running pods, and how they change."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.pods: dict[tuple[int, int], Running] = {
            (node, card): Running(node * GPUS + card, node, card) for node in range(NODES) for card in range(GPUS)
        }
        self.next_serial = NODES * GPUS
        self.revision = 1_000_000

    def on(self, node: int) -> list[Running]:
        """Pods of one node."""
        return [self.pods[(node, card)] for card in range(GPUS)]

    def replace(self) -> tuple[Running, Running]:
        """One pod ends and another takes its card."""
        place = self._place()
        old = self.pods[place]
        new = self.pods[place] = Running(self.next_serial, *place)
        self.next_serial += 1
        return old, new

    def any_pod(self) -> Running:
        """One of the running pods."""
        return self.pods[self._place()]

    def step(self) -> int:
        """The next revision."""
        self.revision += 1
        return self.revision

    def _place(self) -> tuple[int, int]:
        return self.random.randrange(NODES), self.random.randrange(GPUS)
