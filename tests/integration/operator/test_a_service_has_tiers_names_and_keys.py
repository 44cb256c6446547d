"""The CPU tier, names, API keys and scaling by demand, with the real operator and the rights that the chart gives it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

WaitFor = Callable[..., Any]
KEY = "a-key-that-nobody-guesses-0123456789"


def _condition(services: Any, name: str, kind: str) -> dict[str, Any]:
    conditions = services.get("minf", name).get("status", {}).get("conditions", [])
    found: list[dict[str, Any]] = [c for c in conditions if c["type"] == kind]
    return found[0] if found else {}


def _patch(services: Any, name: str, spec: dict[str, Any]) -> None:
    patch = json.dumps({"spec": spec})
    services.box.kubectl("-n", services.namespace, "patch", "minf", name, "--type=merge", "-p", patch)


def test_a_cpu_tier_comes_serves_alone_and_goes(services: Any, wait_for: WaitFor) -> None:
    slices = "endpointslices", "-l"
    services.create("tiny", replicas=0, cpu={"cores": 1, "memory": "1Gi"})
    assert "1 CPU engine answers" in services.wait_ready("tiny", "True", "CPUOnly")["message"]
    (slice_,) = wait_for(lambda: [one for one in services.get(*slices, "mica.dev/tier=cpu")["items"] if one["endpoints"]])
    assert slice_["metadata"]["labels"]["mica.dev/inference-service"] == "tiny"
    assert slice_["endpoints"][0]["targetRef"]["name"].startswith("tiny-cpu-")
    (gpu,) = wait_for(lambda: services.get(*slices, "mica.dev/tier=gpu")["items"])
    assert not gpu["endpoints"], "pods of the CPU tier are no replicas of the GPU tier"
    _patch(services, "tiny", {"cpu": None, "replicas": 1})
    services.wait_ready("tiny", "True", "Serving")
    wait_for(lambda: [d["metadata"]["name"] for d in services.get("deployments,services")["items"]] == ["tiny-engine"] * 2)


def test_nothing_keeps_an_object_from_being_deleted(services: Any, operator: Any, wait_for: WaitFor) -> None:
    services.create("tiny")
    services.wait_ready("tiny")
    assert "finalizers" not in services.get("minf", "tiny")["metadata"]
    operator.kill()
    services.box.kubectl("-n", services.namespace, "delete", "minf", "tiny", "--timeout=20s")
    wait_for(lambda: not services.get("deployments,services,pods")["items"])


def test_a_younger_service_is_told_that_its_name_is_taken(services: Any, wait_for: WaitFor) -> None:
    services.create("old", model={"uri": "file:///m", "name": f"org/{services.namespace}"})
    services.wait_ready("old")
    services.create("young", model={"uri": "file:///m", "aliases": [f"org/{services.namespace}"]})
    shadowed = wait_for(lambda: _condition(services, "young", "NameShadowed"))
    assert f"belongs to {services.namespace}/old" in shadowed["message"]
    services.box.kubectl("-n", services.namespace, "delete", "minf", "old")
    wait_for(lambda: not _condition(services, "young", "NameShadowed"))
    assert _condition(services, "young", "SpecValid")["status"] == "True"


def test_keys_are_hashed_and_nothing_is_open_without_them(services: Any, wait_for: WaitFor) -> None:
    services.create("tiny", routing={"apiKeySecretRef": {"name": "keys"}})
    assert "there is no Secret keys" in wait_for(lambda: _condition(services, "tiny", "KeysRead"))["message"]
    data = {"one": base64.b64encode(KEY.encode()).decode()}
    meta = {"name": "keys", "namespace": services.namespace}
    services.box.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data})
    services.box.kubectl("-n", services.namespace, "annotate", "minf", "tiny", "look=again")
    hashes = wait_for(lambda: services.get("minf", "tiny")["status"].get("apiKeyHashes"))
    assert hashes == [hashlib.sha256(KEY.encode()).hexdigest()]


def test_replicas_follow_the_demand_from_zero_and_back(services: Any, routers: Any, wait_for: WaitFor) -> None:
    routers.demand = {}
    services.create(
        "tiny", autoscaling={"min": 0, "max": 3, "target": {"inflight": 2}, "idleTimeout": "3s", "scaleDownWindow": "1s"}
    )
    ready = services.wait_ready("tiny", "True", "ScaledToZero")
    assert "the next request starts a replica" in ready["message"]
    wait_for(lambda: _condition(services, "tiny", "AutoscalingActive").get("status") == "True")
    routers.demand = {"tiny": {"in_flight": 0, "queued": 1, "oldest_wait": 0.1}}
    services.wait_ready("tiny", "True", "Serving")
    routers.demand = {"tiny": {"in_flight": 5, "queued": 0, "oldest_wait": 0}}
    wait_for(lambda: services.get("minf", "tiny")["status"]["readyReplicas"] == 3)
    routers.demand = {}
    # The average of the demand falls within half a minute, then replicas go one by one.
    wait_for(lambda: services.ready("tiny")["reason"] == "ScaledToZero", within=90.0)
    wait_for(lambda: not services.get("pods")["items"])
