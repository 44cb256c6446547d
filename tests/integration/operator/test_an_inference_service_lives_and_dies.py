from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

WaitFor = Callable[..., Any]


def test_eight_lines_become_a_ready_service_with_a_url(services: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny", "True", "Serving")
    stored = services.get("minf", "tiny")
    router = services.box.get("service", "mica-router", "-n", "mica-system")["spec"]["clusterIP"]
    assert stored["status"]["url"] == f"http://{router}/v1"
    assert stored["status"]["observedGeneration"] == stored["metadata"]["generation"]
    kinds = ("SpecValid", "SlicesAllocated", "EngineReady", "Routable", "Ready")
    assert {c["type"]: c["status"] for c in stored["status"]["conditions"]} == dict.fromkeys(kinds, "True")
    (container,) = services.get("deployment", "tiny-engine")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {
        "mica.dev/vgpu-number": "1",
        "mica.dev/vgpu-cores": "20",
        "mica.dev/vgpu-memory-1Gi": "3",
    }
    (slice_,) = services.get("endpointslices", "-l", "mica.dev/inference-service=tiny")["items"]
    assert [p["name"] for p in slice_["ports"]] == ["http"]
    shown = services.box.kubectl("-n", services.namespace, "get", "minf", "tiny", "--no-headers").split()
    assert shown[:6] == ["tiny", "True", "Serving", "1", "1", f"http://{router}/v1"]
    told = "events", "--field-selector=involvedObject.kind=InferenceService"
    wait_for(lambda: "Serving" in {e["reason"] for e in services.get(*told)["items"]})


def test_a_shortage_is_named_and_ends_when_there_is_room(services: Any, wait_for: WaitFor) -> None:
    services.create("large", slice={"number": 16})
    ready = services.wait_ready("large", "False", "NoCapacity")
    assert "Insufficient mica.dev/vgpu-number" in ready["message"]
    patch = json.dumps({"spec": {"slice": {"number": 1}}})
    services.box.kubectl("-n", services.namespace, "patch", "minf", "large", "--type=merge", "-p", patch)
    services.wait_ready("large", "True", "Serving")


def test_readiness_is_taken_back_when_the_engine_stops_answering(services: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny")
    (pod,) = services.get("pods", "-l", "mica.dev/inference-service=tiny")["items"]
    conditions = [
        {**c, "status": "False"} if c["type"] in ("Ready", "ContainersReady") else c for c in pod["status"]["conditions"]
    ]
    patch = json.dumps({"status": {"conditions": conditions}})
    flags = ("--subresource=status", "--type=merge", "-p", patch)
    services.box.kubectl("-n", services.namespace, "patch", "pod", pod["metadata"]["name"], *flags)
    services.wait_ready("tiny", "False")
    services.box.kubectl("-n", services.namespace, "delete", "pod", pod["metadata"]["name"])
    services.wait_ready("tiny", "True")


def test_scaling_to_zero_and_back_is_explained(services: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny")
    services.box.kubectl("-n", services.namespace, "scale", "minf", "tiny", "--replicas=0")
    ready = services.wait_ready("tiny", "False", "ScaledToZero")
    assert f"kubectl -n {services.namespace} scale minf tiny --replicas=1" in ready["message"]
    wait_for(lambda: not services.get("pods")["items"])
    services.box.kubectl("-n", services.namespace, "scale", "minf", "tiny", "--replicas=2")
    services.wait_ready("tiny", "True", "Serving")
    wait_for(lambda: services.get("minf", "tiny")["status"]["replicas"] == 2)


def test_what_somebody_changes_is_put_back(services: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny")
    services.box.kubectl("-n", services.namespace, "scale", "deployment", "tiny-engine", "--replicas=3")
    wait_for(lambda: services.get("deployment", "tiny-engine")["spec"]["replicas"] == 1)
    services.box.kubectl("-n", services.namespace, "delete", "service", "tiny-engine")
    wait_for(lambda: services.get("services")["items"])


def test_deleting_a_service_deletes_everything_of_it(services: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny")
    services.box.kubectl("-n", services.namespace, "delete", "minf", "tiny", "--timeout=20s")
    wait_for(lambda: not services.get("deployments,services,pods,endpointslices")["items"])


def test_an_object_of_somebody_else_is_not_taken_over(services: Any, wait_for: WaitFor) -> None:
    meta = {"name": "tiny-engine", "namespace": services.namespace}
    services.box.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 7}]}})
    services.create("tiny")
    ready = services.wait_ready("tiny", "False", "NameTaken")
    assert "Service tiny-engine exists and was not made by Mica" in ready["message"]
    assert services.get("service", "tiny-engine")["spec"]["ports"][0]["port"] == 7
    assert not services.get("deployments")["items"]


def test_a_type_without_an_image_says_where_to_give_one(services: Any) -> None:
    services.create("tiny", engine={"type": "vllm"})
    assert "engines.vllm.image" in services.wait_ready("tiny", "False", "NoEngineImage")["message"]
