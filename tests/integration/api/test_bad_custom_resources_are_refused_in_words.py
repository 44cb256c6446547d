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
        (_service(replicas=-1), "spec.replicas"),
        (_service(engine={"type": "tgi"}), 'supported values: "llamacpp", "vllm", "custom"'),
        (_service(engine={"type": "custom"}), "engine.image is required for engine type custom"),
        (_service(engine={"command": ["x"]}), "engine.command may be set for engine type custom only"),
        (
            _service(engine={"env": [{"name": "LD_PRELOAD", "value": "x"}]}),
            "LD_PRELOAD, LD_AUDIT and GLIBC_TUNABLES are not allowed",
        ),
        (_service(engine={"env": [{"name": "A"}, {"name": "A"}]}), "Duplicate value"),
        (_service(autoscaling={"min": 0}), 'unknown field "spec.autoscaling"'),
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
    assert stored["replicas"] == 1
    assert stored["engine"] == {"type": "llamacpp", "port": 8000}
    assert stored["slice"] == {"number": 1}
    crds.kubectl("delete", "minf", unique, "--wait=false")


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
