"""Refusals: at admission in words, and on the node when a decision cannot be right, whoever made it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mica_api import names
from mica_box.errors import BoxError
from mica_demo.testing import Platform, eventually, slice_limits

GATE = {"schedulingGates": [{"name": "test.mica.dev/hold"}]}


@pytest.fixture
def undecided(mica: Platform) -> Iterator[dict[str, Any]]:
    """An admitted pod that no scheduler touches, so that a test can decide in the extender's name."""
    mica.box.apply(mica.pod("forged", ["gpu-probe"], limits=slice_limits(cores=20, memory_gib=3), **GATE))
    mica.box.kubectl("-n", "mica-system", "scale", "deployment/mica-scheduler", "--replicas=0")
    eventually("the scheduler to be gone", lambda: "mica-scheduler" not in mica.box.kubectl("-n", "mica-system", "get", "pods"))
    mica.box.kubectl("patch", "pod", "forged", "--type=json", '-p=[{"op":"remove","path":"/spec/schedulingGates"}]')
    yield mica.get("pod", "forged")
    mica.delete("pod", "forged")
    mica.box.kubectl("-n", "mica-system", "scale", "deployment/mica-scheduler", "--replicas=1")
    mica.box.kubectl("-n", "mica-system", "rollout", "status", "deployment/mica-scheduler", "--timeout=60s")


def decision(mica: Platform, **changes: Any) -> dict[str, Any]:
    gpu = mica.box.get("vgpunode", "node1")["spec"]["gpus"][0]["uuid"]
    return {"uuid": gpu, "mem": 3072, "cores": 20, **changes}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"uid": "00000000-0000-0000-0000-000000000000"}, "uid"),
        ({"node": "kwok-0"}, "node"),
        ({"gpu": {"uuid": "GPU-00000000-0000-0000-0000-00000000dead"}}, "not on this node"),
        ({"gpu": {"mem": 4096}}, "requested"),
        ({"gpu": {"cores": 90}}, "requested"),
    ],
    ids=["another-uid", "another-node", "unknown-gpu", "more-memory", "more-compute"],
)
def test_a_decision_that_cannot_be_right_does_not_start(
    mica: Platform, undecided: dict[str, Any], wrong: dict[str, Any], words: str
) -> None:
    gpu = decision(mica, **wrong.get("gpu", {}))
    value = {"v": 1, "uid": wrong.get("uid", undecided["metadata"]["uid"]), "node": wrong.get("node", "node1"), "gpus": [gpu]}
    mica.binding(undecided, "node1", {names.allocation_annotation(0): json.dumps(value)})
    message = eventually("the agent's words", lambda: mica.waiting_message("forged") or None, timeout_s=90)
    message = eventually("a refusal", lambda: m if words in (m := mica.waiting_message("forged")) else None, timeout_s=90)
    assert "CreateContainerConfigError" in message
    refusals = eventually("a refusal in the inventory", lambda: mica.box.get("vgpunode", "node1")["status"].get("refusals"))
    assert refusals[0]["pod"] == "forged"


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
        ({names.RESOURCE_MEMORY: 500}, "the largest GPU it may use has 81920 MiB; ask for less"),
        ({names.RESOURCE_CORES: 10, "nvidia.com/gpumem": 100}, "mixed"),
    ],
    ids=["more-than-a-card", "larger-than-any-gpu", "two-dialects"],
)
def test_an_impossible_request_is_refused_at_admission(mica: Platform, limits: dict[str, int], words: str) -> None:
    assert words in mica.refused(mica.pod("impossible", ["true"], limits=limits))


def test_a_card_that_no_node_has_is_refused_at_admission(mica: Platform) -> None:
    wanted = {names.ANNOTATION_USE_MODEL: "B300"}
    assert "models here: NVIDIA H100 80GB HBM3" in mica.refused(
        mica.pod("impossible", ["true"], limits=slice_limits(cores=10), annotations=wanted)
    )


def test_a_preload_of_the_users_own_is_refused_at_admission(mica: Platform) -> None:
    body = mica.pod("impossible", ["true"], limits=slice_limits(cores=10))
    body["spec"]["containers"][0]["env"] = [{"name": "LD_PRELOAD", "value": "/tmp/mine.so"}]
    assert "LD_PRELOAD" in mica.refused(body)
