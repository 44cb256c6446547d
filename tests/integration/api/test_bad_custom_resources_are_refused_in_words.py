from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mica_box.testing import RunningBox
from mica_generate.files import REPOSITORY

Body = dict[str, Any]
Refused = Callable[..., str]


def _service(name: str = "ok", **spec: Any) -> Body:
    body = {"model": {"uri": "file:///models/m.gguf"}, **spec}
    return {
        "apiVersion": "mica.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": body,
    }


def _rule(conditions: Body, device: str = "CPU") -> Body:
    rule = {"name": "r", "conditions": conditions, "action": {"device": device}}
    return _service(cpu={}, routing={"rules": [rule]})


def _pool(**spec: Any) -> Body:
    return {"apiVersion": "mica.dev/v1alpha1", "kind": "VGPUPool", "metadata": {"name": "p"}, "spec": spec}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_service(model={"uri": "hf://org/model"}), "only file:///PATH (a path in the engine's container) is supported"),
        (_service(model={"uri": "file:///m", "name": "has space"}), "spec.model.name"),
        (_service(slice={"cores": 101}), "should be less than or equal to 100"),
        (_service(slice={"cores": 0}), "should be greater than or equal to 1"),
        (_service(slice={"number": 0}), "spec.slice.number"),
        (_service(slice={"memory": "12GB"}), "spec.slice.memory"),
        (_service(slice={"memory": "0Gi"}), "spec.slice.memory"),
        (_service(slice={"compute": {"priority": "High"}}), "replicas have their GPUs alone"),
        (_service(slice={"cores": 100, "compute": {"priority": "High"}}), "replicas have their GPUs alone"),
        (_service(slice={"memory": "4Gi", "compute": {"policy": "Strict"}}), "slice.compute.policy is about a cap"),
        (_service(slice={"cores": 20, "compute": {"weight": 5}}), "slice.compute.weight is for slices without a cap"),
        (_pool(compute={"priority": "High"}), "is above compute.highestPriority; raise the latter"),
        (_pool(compute={"weight": 200}), "is above compute.maxWeight; raise the latter"),
        (_pool(compute={"highestPriority": "Top"}), 'supported values: "Low", "Normal", "High"'),
        (_pool(compute={"maxWeight": 10_001}), "should be less than or equal to 10000"),
        (_pool(mode="Exclusive", compute={"highestPriority": "High"}), "decide between slices of one GPU"),
        (_pool(maxSlicesPerGPU=1, compute={"maxWeight": 200}), "decide between slices of one GPU"),
        (_service(replicas=-1), "spec.replicas"),
        (_service(engine={"type": "tgi"}), 'supported values: "llamacpp", "vllm", "custom"'),
        (_service(engine={"type": "custom"}), "engine.image is required for engine type custom"),
        (_service(engine={"command": ["x"]}), "engine.command may be set for engine type custom only"),
        (
            _service(engine={"env": [{"name": "LD_PRELOAD", "value": "x"}]}),
            "LD_PRELOAD, LD_AUDIT and GLIBC_TUNABLES are not allowed",
        ),
        (_service(engine={"env": [{"name": "A"}, {"name": "A"}]}), "Duplicate value"),
        (_service(autoscaling={"min": 0}), "spec.autoscaling.max: Required value"),
        (_service(autoscaling={"min": 3, "max": 2}), "autoscaling.min must not be larger than autoscaling.max"),
        (_service(replicas=1, autoscaling={"max": 2}), "replicas and autoscaling cannot both be set"),
        (_service(cpu={"mode": "relay"}), "cpu.mode relay needs cpu.engine.type vllm"),
        (_service(cpu={"mode": "relay", "engine": {"type": "vllm"}}), "cpu.mode relay needs engine.type vllm"),
        (
            _service(engine={"type": "vllm"}, cpu={"mode": "relay", "engine": {"type": "vllm"}, "uri": "file:///other"}),
            "cpu.mode relay and cpu.uri cannot be combined",
        ),
        (
            _service(
                engine={"type": "vllm"},
                cpu={"mode": "relay", "engine": {"type": "vllm"}},
                routing={"resumeMidStream": False},
            ),
            "remove routing.resumeMidStream: false",
        ),
        (_service(cpu={"engine": {"resources": {}}}), "set cpu.cores and cpu.memory"),
        (_service(cpu={"engine": {"type": "custom"}}), "engine.image is required for engine type custom"),
        (
            _service(model={"uri": "file:///m", "adapters": [{"name": "a", "uri": "file:///l"}]}),
            "model.adapters needs engine.type vllm",
        ),
        (_service(routing={"policy": "fastest"}), 'supported values: "auto", "round-robin"'),
        (_service(routing={"kvEvents": True}), 'unknown field "spec.routing.kvEvents"'),
        (_service(routing={"timeouts": {"idle": "soon"}}), "spec.routing.timeouts.idle"),
        (_service(routing={"rules": []}), "routing.rules choose between tiers: set cpu"),
        (_rule({}), "spec.routing.rules[0].conditions"),
        (_rule({"max_tokens": {}}), "should have at least 1 properties"),
        (_rule({"max_tokens": {"gte": "1024"}}), "must be of type number"),
        (_rule({"max_tokens": {"above": 1}}), 'unknown field "spec.routing.rules[0].conditions.max_tokens.above"'),
        (_rule({"header:": {"exists": True}}), "a condition needs the name of a field"),
        (_rule({"stream": {"eq": True}}, device="NPU"), 'supported values: "GPU", "CPU"'),
        (_service(engine={"resources": {"limits": {"nvidia.com/gpu": 1}}}), "takes cpu, memory and ephemeral-storage"),
        (_service(engine={"resources": {"limits": {"cpu": "lots"}}}), "spec.engine.resources.limits"),
        (
            _service(engine={"volumes": [{"name": "v", "mountPath": "/m"}]}),
            "a volume is either emptyDir or persistentVolumeClaim",
        ),
        (
            _service(engine={"volumes": [{"name": "v", "mountPath": "/m", "hostPath": {"path": "/"}}]}),
            'unknown field "spec.engine.volumes[0].hostPath"',
        ),
        (_service(placement={"tolerations": [{"operator": "Equal"}]}), "a toleration needs a key, or operator Exists"),
        (_service(name="a" * 51), "metadata.name must be at most 50 characters"),
        (_service(name="has.dot"), "metadata.name must be at most 50 characters"),
        ({**_service(), "spec": {}}, "spec.model: Required value"),
        (_pool(maxSlicesPerGPU=65), "spec.maxSlicesPerGPU"),
        (_pool(placement={"node": "Random"}), 'supported values: "Fragmentation", "Binpack", "Spread"'),
        (_pool(placement={"gpu": "Spread"}), "spec.placement.gpu"),
        (_pool(placement={"gpu": []}), "spec.placement.gpu"),
        (
            _pool(placement={"gpu": ["Random"]}),
            'supported values: "Fragmentation", "Binpack", "Spread", "Numa", "Mutex", "Topology"',
        ),
        (_pool(placement={"gpu": ["Numa", "Numa"]}), "each policy may be listed once"),
        (_pool(placement={"gpu": ["Binpack", "Numa", "Spread"]}), "Binpack and Spread contradict each other; keep one of them"),
        (_pool(placement={"gpu": ["Topology", "Binpack"]}), "Topology chooses the whole set of cards"),
        (
            _pool(placement={"weights": {"slots": 0, "cores": 0, "memory": 0}}),
            "at least one of slots, cores and memory must be positive",
        ),
        (_pool(placement={"weights": {"slots": 1, "cores": -1, "memory": 0}}), "spec.placement.weights.cores"),
        (_pool(placement={"weights": {"slots": 1}}), "spec.placement.weights.memory: Required value"),
        (_pool(memoryOvercommitPercent=99), "spec.memoryOvercommitPercent"),
        (_pool(coresOvercommitPercent=401), "spec.coresOvercommitPercent"),
        (_pool(mode="MIG"), 'supported values: "Shared", "Exclusive"'),
        (
            _pool(mode="Exclusive", memoryOvercommitPercent=150),
            "memoryOvercommitPercent above 100 needs GPUs that several slices share",
        ),
        (
            _pool(maxSlicesPerGPU=1, coresOvercommitPercent=150),
            "coresOvercommitPercent above 100 needs GPUs that several slices share",
        ),
        (_pool(gpus=[{"uuid": "GPU-1", "mode": "Shared"}] * 2), "Duplicate value"),
        (_pool(gpus=[{"uuid": "GPU-1"}]), "spec.gpus[0].mode: Required value"),
        (_pool(template={"gpus": 0, "model": "m", "memoryMiB": 1}), "spec.template.gpus"),
        (_pool(template={"gpus": 1, "model": "m"}), "spec.template.memoryMiB: Required value"),
        (_pool(queues=[]), 'unknown field "spec.queues"'),
    ],
)
def test_the_refusal_names_the_field_or_the_rule(crds: RunningBox, refused: Refused, body: Body, words: str) -> None:
    assert words in refused(crds, body, "--dry-run=server")


def test_a_pool_may_use_every_field_and_stores_its_defaults(crds: RunningBox, unique: str) -> None:
    full = _pool(
        mode="Exclusive",
        memoryOvercommitPercent=400,
        coresOvercommitPercent=200,
        gpus=[{"uuid": "GPU-1", "mode": "Shared"}],
        placement={"node": "Spread", "gpu": ["Mutex", "Topology"], "weights": {"slots": 1, "cores": 0, "memory": 3}},
        template={"gpus": 8, "model": "NVIDIA H100 80GB HBM3", "memoryMiB": 81920},
    )
    crds.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(full))
    crds.apply({**_pool(), "metadata": {"name": unique}})
    stored = crds.get("vgpupools", unique)["spec"]
    assert stored["placement"] == {"node": "Fragmentation", "gpu": ["Fragmentation"]}
    assert (stored["mode"], stored["memoryOvercommitPercent"], stored["coresOvercommitPercent"]) == ("Shared", 100, 100)
    crds.kubectl("delete", "vgpupools", unique, "--wait=false")


def test_eight_lines_are_enough_and_defaults_are_stored(crds: RunningBox, unique: str) -> None:
    body = _service(unique)
    crds.apply(body)
    stored = crds.get("inferenceservices", unique)["spec"]
    assert "replicas" not in stored, "a default would be in the way of autoscaling"
    assert stored["engine"] == {"type": "llamacpp", "port": 8000, "drain": "30s"}
    assert stored["slice"] == {"number": 1}
    crds.kubectl("delete", "minf", unique, "--wait=false")


def test_a_service_may_use_every_field(crds: RunningBox) -> None:
    full = _service(
        model={"uri": "file:///m", "name": "org/m", "aliases": ["m"], "revision": "2026-01"},
        autoscaling={"min": 0, "max": 4, "target": {"inflight": 8}, "idleTimeout": "10m", "scaleDownWindow": "2m"},
        engine={
            "type": "vllm",
            "image": "x",
            "resources": {"requests": {"cpu": 4, "memory": "16Gi"}, "limits": {"memory": "32Gi"}},
            "volumes": [
                {"name": "m", "mountPath": "/m", "persistentVolumeClaim": {"claimName": "m"}},
                {"name": "shm", "mountPath": "/dev/shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            ],
            "maxInFlight": 64,
            "drain": "1m",
        },
        placement={"nodeSelector": {"a": "b"}, "tolerations": [{"key": "gpu", "operator": "Exists"}], "priorityClassName": "p"},
        cpu={
            "replicas": 2,
            "cores": 16,
            "memory": "64Gi",
            "uri": "file:///m.gguf",
            "engine": {"type": "llamacpp", "maxInFlight": 4},
            "mode": "overflow",
            "when": {"gpuKVPercent": 85, "gpuWaiting": 2, "noGPUReady": False},
            "maxOutputTokens": 512,
        },
        routing={
            "policy": "prefix",
            "sessionHeader": "x-user",
            "timeouts": {"connect": "500ms", "firstByte": "1m30s", "idle": "2m", "total": "1h"},
            "retries": 3,
            "resumeMidStream": False,
            "hedgeAfter": "5s",
            "queue": {"maxRequests": 100, "maxWait": "30s", "heartbeat": "5s"},
            "apiKeySecretRef": {"name": "keys"},
            "rules": [
                {
                    "name": "every operator",
                    "priority": 10,
                    "conditions": {
                        "max_tokens": {"gt": 1, "gte": 2, "lt": 5000, "lte": 4096},
                        "stream": {"eq": True},
                        "model": {"in": ["m", "org/m", 7]},
                        "messages": {"min_count": 1, "max_count": 20},
                        "tools": {"exists": False},
                        "header:x-class": {"eq": "batch"},
                    },
                    "action": {"device": "CPU"},
                }
            ],
        },
    )
    crds.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(full))


def test_a_service_is_scaled_by_its_scale_subresource(crds: RunningBox, unique: str) -> None:
    crds.apply(_service(unique))
    crds.kubectl("scale", "minf", unique, "--replicas=3")
    assert crds.get("inferenceservices", unique)["spec"]["replicas"] == 3
    crds.kubectl("delete", "minf", unique, "--wait=false")


def test_examples_are_accepted(crds: RunningBox) -> None:
    """Slice pods among them need the webhook and are left to the end-to-end tests."""
    checked = 0
    for path in sorted((REPOSITORY / "examples").rglob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            if body and body["apiVersion"].startswith("mica.dev/"):
                crds.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))
                checked += 1
    assert checked
