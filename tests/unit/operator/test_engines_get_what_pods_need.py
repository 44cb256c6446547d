"""Resources, volumes, placement, draining, revisions and adapters of engines, as pods have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mica_api.models import InferenceService
from mica_operator.core.children import deployment_body, needs_apply
from mica_operator.core.engines import gpu_role
from mica_operator.core.views import read_child

Make = Callable[..., InferenceService]


def _body(service: InferenceService) -> dict[str, Any]:
    return deployment_body(service, gpu_role(service, service.replicas), "image:1")


def _pod(service: InferenceService) -> dict[str, Any]:
    found: dict[str, Any] = _body(service)["spec"]["template"]["spec"]
    return found


def test_cpu_and_memory_stand_beside_the_slice(service: Make) -> None:
    resources = {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "8Gi"}}
    (container,) = _pod(service(engine={"resources": resources}))["containers"]
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert container["resources"]["limits"]["memory"] == "8Gi"
    assert container["resources"]["limits"]["mica.dev/vgpu-cores"] == "20"


def test_amounts_are_compared_by_what_they_mean(service: Make) -> None:
    volumes = [{"name": "shm", "mountPath": "/dev/shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}}]
    engine = {"resources": {"requests": {"cpu": "1000m"}}, "volumes": volumes}
    body = _body(service(engine=engine))
    stored = _body(service(engine=engine))
    pod = stored["spec"]["template"]["spec"]
    pod["containers"][0]["resources"]["requests"]["cpu"] = "1"
    pod["volumes"][0]["emptyDir"]["sizeLimit"] = "1Gi"
    assert not needs_apply(body, read_child(stored))
    pod["containers"][0]["resources"]["requests"]["cpu"] = "2"
    assert needs_apply(body, read_child(stored))


def test_volumes_are_mounted(service: Make) -> None:
    volumes = [
        {"name": "weights", "mountPath": "/models", "readOnly": True, "persistentVolumeClaim": {"claimName": "w"}},
        {"name": "tmp", "mountPath": "/tmp", "emptyDir": {}},
    ]
    pod = _pod(service(engine={"volumes": volumes}))
    assert pod["volumes"] == [
        {"name": "weights", "persistentVolumeClaim": {"claimName": "w", "readOnly": True}},
        {"name": "tmp", "emptyDir": {}},
    ]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "weights", "mountPath": "/models", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]


def test_placement_is_that_of_a_pod(service: Make) -> None:
    toleration = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    pod = _pod(service(placement={"nodeSelector": {"a": "b"}, "tolerations": [toleration], "priorityClassName": "high"}))
    assert (pod["nodeSelector"], pod["tolerations"], pod["priorityClassName"]) == ({"a": "b"}, [toleration], "high")


@pytest.mark.parametrize(("drain", "sleep", "grace"), [(None, 30, 60), ("1m30s", 90, 120), ("500ms", 1, 31)])
def test_a_replica_that_leaves_serves_until_its_answers_are_out(service: Make, drain: str | None, sleep: int, grace: int) -> None:
    pod = _pod(service(engine={"drain": drain} if drain else {}))
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == sleep
    assert pod["terminationGracePeriodSeconds"] == grace


def test_another_revision_of_the_weights_is_another_set_of_replicas(service: Make) -> None:
    first, second = (service(model={"uri": "file:///m", "revision": revision}) for revision in ("a", "b"))
    assert _pod(first) != _pod(second)
    assert _pod(first)["containers"][0]["env"] == [{"name": "MICA_MODEL_REVISION", "value": "a"}]


def test_adapters_are_loaded_by_name(service: Make) -> None:
    adapters = [{"name": "sql", "uri": "file:///l/sql"}, {"name": "org/law", "uri": "file:///l/law"}]
    wanted = service(model={"uri": "file:///m", "adapters": adapters}, engine={"type": "vllm"})
    assert " ".join(_pod(wanted)["containers"][0]["args"]).endswith("--enable-lora --lora-modules sql=/l/sql org/law=/l/law")
