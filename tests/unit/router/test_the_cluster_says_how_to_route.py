"""`spec.routing` and `spec.cpu` become values; tiers, templates and keys are told apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from mica_api.models import InferenceService
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routing import Condition, CpuUse, EngineDeadlines, FieldRule, QueueLimits, Routing
from mica_router.sources.cluster_objects import Declared, join_services, read_endpoint_slice, read_inference_service
from mica_router.sources.cluster_routing import NO_KEY

FULL: dict[str, Any] = {
    "policy": "prefix",
    "sessionHeader": "x-user",
    "timeouts": {"connect": "500ms", "firstByte": "1m30s", "idle": "2m", "total": "1h"},
    "retries": 4,
    "resumeMidStream": False,
    "hedgeAfter": "3s",
    "queue": {"maxRequests": 7, "maxWait": "30s", "heartbeat": "0s"},
    "apiKeySecretRef": {"name": "keys"},
    "rules": [
        {"name": "b", "priority": 1, "conditions": {"stream": {"eq": True}}, "action": {"device": "GPU"}},
        {"name": "a", "priority": 2, "conditions": {"messages": {"min_count": 4}}, "action": {"device": "CPU"}},
    ],
}
CPU: dict[str, Any] = {
    "engine": {"type": "llamacpp", "maxInFlight": 4},
    "mode": "standby",
    "when": {"gpuKVPercent": 80, "gpuWaiting": 3, "noGPUReady": False},
    "maxOutputTokens": 0,
    "relayAfterTokens": 32,
}


def _body(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"name": "chat", "namespace": "ml", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": meta, "spec": {"model": {"uri": "file:///m"}, **spec}, "status": status or {}}


def _read(status: dict[str, Any] | None = None, **spec: Any) -> Declared:
    return read_inference_service(json.dumps(_body(status, **spec)).encode())


def test_every_field_arrives() -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    assert _read({"apiKeyHashes": [digest]}, routing=FULL, cpu=CPU).service.routing == Routing(
        policy="prefix",
        session_header="x-user",
        deadlines=EngineDeadlines(connect=0.5, first_byte=90.0, idle=120.0, total=3600.0),
        retries=4,
        resume=False,
        hedge_after=3.0,
        queue=QueueLimits(max_requests=7, max_wait=30.0, heartbeat=0.0),
        api_keys=(hashlib.sha256(b"key").digest(),),
        cpu=CpuUse(mode="standby", gpu_kv_percent=80, gpu_waiting=3, no_gpu_ready=False, max_output_tokens=0, relay_after=32),
        rules=(
            FieldRule(name="a", priority=2, conditions=(Condition(field="messages", operator="min_count", value=4),), tier="cpu"),
            FieldRule(name="b", priority=1, conditions=(Condition(field="stream", operator="eq", value=True),), tier="gpu"),
        ),
    )


def test_the_api_accepts_what_is_read_and_both_have_the_same_defaults() -> None:
    model = InferenceService.model_validate(_body(routing=FULL, cpu=CPU))
    wire = model.to_wire()
    assert read_inference_service(json.dumps(wire).encode()) == _read(routing=FULL, cpu=CPU)
    defaults = InferenceService.model_validate(_body(routing={}, cpu={})).to_wire()
    assert read_inference_service(json.dumps(defaults).encode()) == _read(routing={}, cpu={})
    assert _read().service.routing == Routing()


def test_keys_that_are_asked_for_and_not_known_let_nobody_in() -> None:
    assert _read(routing={"apiKeySecretRef": {"name": "keys"}}).service.routing.api_keys == (NO_KEY,)
    assert _read({"apiKeyHashes": ["00"]}, routing={}).service.routing.api_keys == ()


@pytest.mark.parametrize(
    "routing", [{"policy": "fastest"}, {"timeouts": {"idle": "soon"}}, {"rules": [{"name": "x"}]}, {"queue": {"maxWait": ""}}]
)
def test_routing_that_cannot_be_enforced_makes_no_route(routing: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        _read(routing=routing)


def test_aliases_and_adapters_are_names_too() -> None:
    model = {"uri": "file:///m", "aliases": ["gpt-4o"], "adapters": [{"name": "sql", "uri": "file:///l"}]}
    service = _read(model=model).service
    assert (service.aliases, service.adapters) == (("gpt-4o",), ("sql",))


def _slice(tier: str | None, *places: tuple[str, str]) -> bytes:
    labels = {"mica.dev/inference-service": "chat", **({"mica.dev/tier": tier} if tier else {})}
    endpoints = [{"addresses": [host], "targetRef": {"kind": "Pod", "name": pod}} for host, pod in places]
    body = {
        "metadata": {"name": "s", "namespace": "ml", "labels": labels},
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8000}],
    }
    return json.dumps(body).encode()


def test_engines_know_their_tier_their_kind_and_their_template() -> None:
    declared = _read(engine={"type": "vllm", "maxInFlight": 64}, cpu=CPU)
    slices = [
        read_endpoint_slice(_slice("gpu", ("10.0.0.1", "chat-engine-6d4cf56db6-abcde"), ("10.0.0.2", "chat-engine-7f9-fghij"))),
        read_endpoint_slice(_slice("cpu", ("10.0.0.3", "chat-cpu-55-klmno"))),
    ]
    (service,) = join_services([declared], slices)
    gpu = {"tier": "gpu", "kind": "vllm", "max_in_flight": 64}
    first, second, third = service.engines
    assert first == Engine(
        endpoint=Endpoint("10.0.0.1", 8000),
        tier="gpu",
        kind="vllm",
        max_in_flight=64,
        revision="6d4cf56db6",
        vocabulary=service.model,
    )
    assert first.takes_over(second) and not third.takes_over(first)
    assert second.revision == "7f9" and {"tier": second.tier, "kind": second.kind, "max_in_flight": second.max_in_flight} == gpu
    assert (third.tier, third.kind, third.max_in_flight) == ("cpu", "llamacpp", 4)
    assert not first.continues(second)


def test_services_of_before_there_were_tiers_are_of_the_gpu_tier() -> None:
    assert read_endpoint_slice(_slice(None, ("10.0.0.1", "x"))).tier == "gpu"


def test_a_tier_that_is_no_longer_declared_gets_nothing() -> None:
    (service,) = join_services([_read()], [read_endpoint_slice(_slice("cpu", ("10.0.0.3", "chat-cpu-55-klmno")))])
    assert service.engines == ()
