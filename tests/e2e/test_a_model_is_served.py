"""One chat request, from client to engine, through operator, slices and router."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from mica_demo.testing import ON_REAL_NODE, Platform, eventually

SERVICE = {
    "apiVersion": "mica.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"name": "tiny", "namespace": "default"},
    "spec": {
        "model": {"uri": "file:///models/tiny.gguf"},
        "slice": {"cores": 30, "memory": "3Gi"},
        "placement": {"nodeSelector": ON_REAL_NODE},
    },
}


def condition(body: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in body["status"]["conditions"] if c["type"] == kind)
    return found


@pytest.fixture(scope="module")
def url(mica: Platform) -> Iterator[str]:
    mica.box.apply(SERVICE)

    def ready() -> str | None:
        body = mica.get("minf", "tiny")
        return body["status"]["url"] if condition(body, "Ready")["status"] == "True" else None

    yield eventually("the model to be Ready", ready, timeout_s=120)
    mica.delete("minf", "tiny")


def test_a_chat_is_answered(url: str) -> None:
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_a_stream_arrives_in_pieces_and_ends_with_done(url: str) -> None:
    body = {"model": "tiny", "stream": True, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        lines = [line.decode().strip() for line in response if line.strip()]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 4


def test_the_engines_speed_follows_its_share_of_compute(url: str) -> None:
    """A token costs 5 ms of GPU time, so that a whole card would give 200 a second and 30 % of it give 60."""
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = client.completions.create(model="tiny", prompt="Hello", max_tokens=150, stream=True)
        times = [time.monotonic() for event in stream if event.choices and event.choices[0].text]
    rate = (len(times) - 1) / (times[-1] - times[0])
    assert len(times) > 60
    assert rate < 90


def test_the_router_lists_the_model(url: str) -> None:
    with OpenAI(base_url=url, api_key="none") as client:
        assert "tiny" in [model.id for model in client.models.list()]


def test_the_engines_memory_shows_on_its_slice(mica: Platform, url: str) -> None:
    agent = mica.box.kubectl(
        "-n", "mica-system", "get", "pods", "-l", "app.kubernetes.io/component=node-agent", "-o", "name"
    ).split()[0]
    path = f"/api/v1/namespaces/mica-system/pods/{agent.removeprefix('pod/')}:8080/proxy/metrics"
    metrics = mica.box.kubectl("get", "--raw", path)
    used = [
        line for line in metrics.splitlines() if line.startswith("mica_node_slice_memory_used_bytes{") and 'pod="tiny-' in line
    ]
    assert used, metrics
    assert float(used[0].rsplit(" ", 1)[1]) >= 1 << 30


def test_status_says_when_the_engine_is_gone(mica: Platform, url: str) -> None:
    mica.box.kubectl("scale", "minf/tiny", "--replicas=0")
    eventually("not Ready", lambda: condition(mica.get("minf", "tiny"), "Ready")["status"] != "True" or None)
    mica.box.kubectl("scale", "minf/tiny", "--replicas=1")
    eventually("Ready again", lambda: condition(mica.get("minf", "tiny"), "Ready")["status"] == "True" or None, timeout_s=90)


def test_deleting_the_service_leaves_nothing(mica: Platform) -> None:
    other = {**SERVICE, "metadata": {"name": "brief", "namespace": "default"}}
    mica.box.apply(other)
    eventually("a pod", lambda: mica.box.kubectl("get", "pods", "-l", "mica.dev/inference-service=brief", "-o", "name"))
    mica.delete("minf", "brief")
    kinds = "deployments,services,pods,endpointslices"
    eventually("no child", lambda: not mica.box.kubectl("get", kinds, "-l", "mica.dev/inference-service=brief", "-o", "name"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"uri": "hf://somewhere/else"}}, "file:///"),
        ({"slice": {"cores": 120}}, "less than or equal to 100"),
        ({"slice": {"memory": "lots"}}, "memory"),
        ({"engine": {"type": "custom"}}, "engine.image is required"),
        ({"replicaz": 2}, "replicaz"),
    ],
    ids=["model-source", "cores", "memory", "no-image", "misspelt-field"],
)
def test_an_invalid_service_is_refused_with_what_to_change(mica: Platform, change: dict[str, Any], words: str) -> None:
    body = {**SERVICE, "metadata": {"name": "wrong", "namespace": "default"}, "spec": {**SERVICE["spec"], **change}}
    assert words in mica.refused(body)
