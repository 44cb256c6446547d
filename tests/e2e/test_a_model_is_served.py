"""One chat request, from client to engine, through operator, slices and router."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from .mica_under_test import Platform, condition, eventually, inference_service, serving_url

SERVICE = inference_service("tiny")


@pytest.fixture(scope="module")
def url(mica: Platform) -> Iterator[str]:
    mica.box.apply(SERVICE)
    yield serving_url(mica, "tiny")
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


def test_the_engines_speed_follows_its_share_of_compute(mica: Platform, url: str) -> None:
    """A token costs 5 ms of GPU time, so that a whole card would give 200 a second and 30 % of it give 60."""
    before = of_engine(mica, "mica_node_slice_throttled_seconds_total")
    times = []
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for _ in range(3):
            stream = client.completions.create(model="tiny", prompt="Hello", max_tokens=60, stream=True)
            times += [time.monotonic() for event in stream if event.choices and event.choices[0].text]
    assert len(times) > 60
    assert (len(times) - 1) / (times[-1] - times[0]) < 90
    assert of_engine(mica, "mica_node_slice_throttled_seconds_total") - before > 0.5
    assert of_engine(mica, "mica_node_slice_compute_busy_seconds_total") >= 0.005 * len(times)


def of_engine(mica: Platform, metric: str) -> float:
    """The metric of the engine's slice."""
    (value,) = [v for k, v in mica.agent_metrics().items() if k.startswith(f"{metric}{{") and 'pod="tiny-' in k]
    return value


def test_the_router_lists_the_model(url: str) -> None:
    with OpenAI(base_url=url, api_key="none") as client:
        assert "tiny" in [model.id for model in client.models.list()]


def test_the_engines_memory_shows_on_its_slice(mica: Platform, url: str) -> None:
    weights_and_kv_mib = 1024 + 512
    assert of_engine(mica, "mica_node_slice_memory_used_bytes") == weights_and_kv_mib << 20


def test_status_says_when_the_engine_is_gone(mica: Platform, url: str) -> None:
    mica.box.kubectl("scale", "minf/tiny", "--replicas=0")
    eventually("not Ready", lambda: condition(mica.get("minf", "tiny"), "Ready")["status"] != "True" or None)
    mica.box.kubectl("scale", "minf/tiny", "--replicas=1")
    eventually("Ready again", lambda: condition(mica.get("minf", "tiny"), "Ready")["status"] == "True" or None, timeout_s=90)


def test_deleting_the_service_leaves_nothing(mica: Platform, url: str) -> None:
    mica.box.apply(inference_service("brief"))
    serving_url(mica, "brief")
    with OpenAI(base_url=url, api_key="none") as client:
        assert "brief" in [model.id for model in client.models.list()]
        mica.delete("minf", "brief")
        eventually("no route", lambda: "brief" not in [model.id for model in client.models.list()])
    kinds = "deployments,services,pods,endpointslices"
    eventually("no child", lambda: not mica.box.kubectl("get", kinds, "-l", "mica.dev/inference-service=brief", "-o", "name"))
    eventually("one slice left", lambda: [s["pod"].rsplit("-", 2)[0] for s in mica.held()] == ["tiny-engine"])
    eventually("its files alone", lambda: len(mica.node_files()) == 3)


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


def test_an_answer_under_way_ends_although_its_replica_is_taken_away(mica: Platform) -> None:
    body = inference_service("leaver")
    body["spec"]["engine"] = {"drain": "1m"}
    mica.box.apply(body)
    replicas = ("-l", "mica.dev/inference-service=leaver")

    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = mica.box.get("pods", *replicas)["items"]
        return found

    with OpenAI(base_url=serving_url(mica, "leaver"), api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model="leaver", prompt="Hello", max_tokens=300, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        mica.box.kubectl("scale", "minf/leaver", "--replicas=0")
        eventually("the replica to leave", lambda: [p for p in pods() if p["metadata"].get("deletionTimestamp")])
        finish = [event.choices[0].finish_reason for event in stream if event.choices]
    assert (finish[-1], len(finish) > 100) == ("length", True)
    mica.delete("minf", "leaver")
    mica.delete("pods", *replicas)
    eventually("the slice to be free", lambda: not [held for held in mica.held() if held["pod"].startswith("leaver-")])
