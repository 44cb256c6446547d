"""Refusals: at admission in words, and on the node when a decision cannot be right, whoever made it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mica_api import names
from mica_box.errors import BoxError

from .mica_under_test import Platform, eventually, slice_limits

GATE = {"schedulingGates": [{"name": "test.mica.dev/hold"}]}


@contextmanager
def undecided(mica: Platform, name: str) -> Iterator[dict[str, Any]]:
    """An admitted pod that no scheduler touches, so that a test can decide in the extender's name."""
    scheduler = ("-n", "mica-system", "scale", "deployment/mica-scheduler")
    gated = mica.pod(name, ["gpu-probe"], limits=slice_limits(cores=20, memory_gib=3), **GATE)
    # The scheduler of the test before may be ready a moment before the node's rules lead to it.
    eventually("admission", lambda: mica.box.apply(gated) or True, timeout_s=60)
    try:
        mica.box.kubectl(*scheduler, "--replicas=0")
        eventually("no scheduler", lambda: "mica-scheduler" not in mica.box.kubectl("-n", "mica-system", "get", "pods"))
        mica.box.kubectl("patch", "pod", name, "--type=json", '-p=[{"op":"remove","path":"/spec/schedulingGates"}]')
        yield mica.get("pod", name)
    finally:
        mica.delete("pod", name)
        mica.box.kubectl(*scheduler, "--replicas=1")
        mica.box.kubectl("-n", "mica-system", "rollout", "status", "deployment/mica-scheduler", "--timeout=60s")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"uid": "00000000-0000-0000-0000-000000000000"}, "WrongPod"),
        ({"node": "kwok-0"}, "WrongNode"),
        ({"gpu": {"uuid": "GPU-00000000-0000-0000-0000-00000000dead"}}, "UnknownGPU"),
        ({"gpu": {"mem": 4096}}, "NotAsRequested"),
        ({"gpu": {"cores": 90}}, "NotAsRequested"),
    ],
    ids=["another-uid", "another-node", "unknown-gpu", "more-memory", "more-compute"],
)
def test_a_decision_that_cannot_be_right_does_not_start(mica: Platform, wrong: dict[str, Any], reason: str) -> None:
    with undecided(mica, "forged") as pod:
        uid = pod["metadata"]["uid"]
        gpu = {"uuid": first_card(mica), "mem": 3072, "cores": 20, **wrong.get("gpu", {})}
        value = {"v": 1, "uid": wrong.get("uid", uid), "node": wrong.get("node", "node1"), "gpus": [gpu]}
        mica.binding(pod, "node1", {names.allocation_annotation(0): json.dumps(value)})
        assert refusal(mica, pod)["reason"] == reason


def test_a_decision_that_does_not_fit_does_not_start(mica: Platform) -> None:
    """A card that is full, given away once more."""
    full = mica.pod("full", ["gpu-probe", "--hold", "3600"], limits=slice_limits(cores=10, memory_gib=79))
    eventually("admission", lambda: mica.box.apply(full) or True, timeout_s=60)
    mica.phase("full", "Running")
    (card,) = eventually("the slice held", lambda: [gpu["uuid"] for held in mica.held() for gpu in held["gpus"]])
    with undecided(mica, "forged") as pod:
        gpu = {"uuid": card, "mem": 3072, "cores": 20}
        value = {"v": 1, "uid": pod["metadata"]["uid"], "node": "node1", "gpus": [gpu]}
        mica.binding(pod, "node1", {names.allocation_annotation(0): json.dumps(value)})
        assert refusal(mica, pod)["reason"] == "OutOfMemory"


def first_card(mica: Platform) -> str:
    uuid: str = mica.box.get("vgpunode", "node1")["spec"]["gpus"][0]["uuid"]
    return uuid


def refusal(mica: Platform, pod: dict[str, Any]) -> dict[str, Any]:
    """What the agent says about the pod in the inventory; the waiting container says the same."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]

    def look() -> dict[str, Any] | None:
        refusals = mica.box.get("vgpunode", "node1")["status"].get("refusals", [])
        return next((r for r in refusals if r["podUID"] == uid), None)

    found = eventually("a refusal in the inventory", look)
    message = eventually("the agent's words", lambda: m if found["message"] in (m := mica.waiting_message(name)) else None)
    assert "CreateContainerConfigError" in message
    return found


def test_an_allocation_cannot_be_written_by_hand(mica: Platform) -> None:
    body = mica.pod("plain", ["gpu-probe"], limits=slice_limits(cores=20, memory_gib=3))
    body["metadata"]["annotations"] = {names.allocation_annotation(0): "{}"}
    assert "alloc.mica.dev" in mica.refused(body)
    del body["metadata"]["annotations"]
    mica.box.apply({**body, "spec": {**body["spec"], **GATE}})
    with pytest.raises(BoxError, match=r"alloc\.mica\.dev"):
        mica.box.kubectl("annotate", "pod", "plain", "alloc.mica.dev/c0={}")
    mica.delete("pod", "plain")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({names.RESOURCE_CORES: 120}, "at most 100"),
        ({names.RESOURCE_CORES: 10, "nvidia.com/gpumem": 100}, "mixed"),
    ],
    ids=["more-than-a-card", "two-dialects"],
)
def test_an_impossible_request_is_refused_at_admission(mica: Platform, limits: dict[str, int], words: str) -> None:
    assert words in mica.refused(mica.pod("impossible", ["true"], limits=limits))


def test_a_preload_of_the_users_own_is_refused_at_admission(mica: Platform) -> None:
    body = mica.pod("impossible", ["true"], limits=slice_limits(cores=10))
    body["spec"]["containers"][0]["env"] = [{"name": "LD_PRELOAD", "value": "/tmp/mine.so"}]
    assert "LD_PRELOAD" in mica.refused(body)
