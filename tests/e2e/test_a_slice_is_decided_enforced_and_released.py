"""One pod, from request to limit and back, on a real kubelet (the GPU is simulated)."""

from __future__ import annotations

import json
from typing import Any

from mica_api import names
from mica_box.errors import BoxError

from .mica_under_test import Platform, eventually, slice_limits

GIB = 1 << 30
HOLD = ["gpu-probe", "--hold", "3600"]


def reports(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_pod_gets_the_slice_it_asked_for_and_no_more(mica: Platform) -> None:
    command = ["sh", "-c", "gpu-probe && gpu-probe --fill && gpu-probe --spin 10 --kernel-us 1000"]
    mica.box.apply(mica.pod("exact", command, limits=slice_limits(cores=20, memory_gib=3)))
    body = mica.phase("exact", "Succeeded", timeout_s=90)

    allocation = json.loads(body["metadata"]["annotations"][names.allocation_annotation(0)])
    assert allocation["uid"] == body["metadata"]["uid"]
    assert allocation["node"] == body["spec"]["nodeName"] == "node1"
    assert [(g["mem"], g["cores"]) for g in allocation["gpus"]] == [(3072, 20)]

    seen, filled, spun = reports(mica.logs("exact"))
    assert (seen["devices"], seen["total"]) == (1, 3 * GIB)
    assert filled["accepted"] == 3 * GIB
    assert filled["error"] == 2, "CUDA_ERROR_OUT_OF_MEMORY"
    assert 0.15 <= spun["busy_share"] <= 0.25
    mica.delete("pod", "exact")


def test_two_pods_share_a_card_and_a_third_waits_with_a_reason_until_one_is_gone(mica: Platform) -> None:
    mica.box.apply(
        mica.pod("whole", HOLD, limits=slice_limits()),
        mica.pod("left", HOLD, limits=slice_limits(cores=20, memory_gib=3)),
    )
    mica.phase("whole", "Running")
    mica.phase("left", "Running")
    mica.box.apply(mica.pod("right", HOLD, limits=slice_limits(cores=30, memory_gib=40)))
    mica.phase("right", "Running")
    cards = {s["pod"]: s["gpus"][0]["uuid"] for s in eventually("three slices held", lambda: _held(mica, 3))}
    assert cards["left"] == cards["right"] != cards["whole"]

    mica.box.apply(mica.pod("late", HOLD, limits=slice_limits(cores=50, memory_gib=60)))
    message = eventually("a reason", lambda: mica.scheduling_message("late"))
    assert "CardInsufficientMemory" in message, message
    mica.delete("pod", "right")
    mica.phase("late", "Running")
    mica.delete("pod", "whole", "left", "late")


def _held(mica: Platform, count: int) -> list[dict[str, Any]] | None:
    held = mica.held()
    return held if len(held) == count else None


def test_spreading_puts_two_slices_on_two_cards(mica: Platform) -> None:
    spread = {names.ANNOTATION_GPU_POLICY: "spread"}
    for name in ("one", "two"):
        mica.box.apply(mica.pod(name, HOLD, limits=slice_limits(cores=10, memory_gib=1), annotations=spread))
        mica.phase(name, "Running")
    assert len({s["gpus"][0]["uuid"] for s in eventually("two slices held", lambda: _held(mica, 2))}) == 2
    mica.delete("pod", "one", "two")


def test_a_pod_written_for_hami_runs_as_it_is(mica: Platform) -> None:
    limits = {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}
    mica.box.apply(mica.pod("hami", ["gpu-probe"], limits=limits))
    mica.phase("hami", "Succeeded")
    assert reports(mica.logs("hami"))[0]["total"] == 3000 << 20
    mica.delete("pod", "hami")


def test_pods_share_a_card_by_weight_and_a_running_one_changes_its_class(mica: Platform) -> None:
    """Two uncapped pods of weights 300 and 100 on one card; then the running one's limits follow its annotation and the pool."""
    mica.box.kubectl("patch", "vgpupool", "default", "--type=merge", "-p", json.dumps(_bounds("High", 300)))
    spin = ["gpu-probe", "--spin", "3600", "--kernel-us", "1000"]
    try:
        eventually("the heavy pod to be admitted", lambda: _heavy(mica, spin))
        light = {names.ANNOTATION_USE_UUID: _card_of(mica, "heavy")}
        mica.box.apply(mica.pod("light", spin, limits=slice_limits(memory_gib=1), annotations=light))
        eventually("both to work", lambda: _busy(mica, "heavy") > 0 and _busy(mica, "light") > 0)
        assert _used_meanwhile(mica, "heavy", "light", seconds=3) < 0.5
        assert _said(mica, "heavy") == ("normal", "300")

        mica.box.kubectl("annotate", "pod", "heavy", f"{names.ANNOTATION_COMPUTE_PRIORITY}=high")
        eventually("the class of the annotation", lambda: _said(mica, "heavy") == ("high", "300"))
        eventually("the light pod to step back", lambda: _used_meanwhile(mica, "heavy", "light", seconds=2) < 0.1)
    finally:
        mica.box.kubectl("patch", "vgpupool", "default", "--type=merge", "-p", json.dumps(_bounds("Normal", 100)))
    eventually("the bounds of the pool", lambda: _said(mica, "heavy") == ("normal", "100"))
    mica.delete("pod", "heavy", "light")


def _busy(mica: Platform, pod: str) -> float:
    """Seconds of GPU time that the pod has used, by the agent's metrics."""
    samples = mica.agent_metrics()
    return sum(v for k, v in samples.items() if k.startswith("mica_node_slice_compute_busy_seconds_total") and f'"{pod}"' in k)


def _used_meanwhile(mica: Platform, pod: str, other: str, *, seconds: float) -> float:
    """GPU time that the other pod uses while the first uses so many seconds of it, as a part of these."""
    mine, others = _busy(mica, pod), _busy(mica, other)
    now = eventually(f"{pod} to compute", lambda: b if (b := _busy(mica, pod)) > mine + seconds else None)
    return (_busy(mica, other) - others) / (now - mine)


def _bounds(highest: str, weight: int) -> dict[str, Any]:
    return {"spec": {"compute": {"highestPriority": highest, "maxWeight": weight}}}


def _heavy(mica: Platform, command: list[str]) -> bool:
    """The extender may not have seen the pool's new bounds yet, and says so."""
    pod = mica.pod("heavy", command, limits=slice_limits(memory_gib=1), annotations={names.ANNOTATION_COMPUTE_WEIGHT: "300"})
    try:
        mica.box.apply(pod)
    except BoxError as error:
        assert "no VGPUPool allows" in str(error)
        return False
    return True


def _card_of(mica: Platform, pod: str) -> str:
    held = eventually("the slice to be held", lambda: [s for s in mica.held() if s["pod"] == pod])
    return str(held[0]["gpus"][0]["uuid"])


def _said(mica: Platform, pod: str) -> tuple[str, str]:
    """Class and weight as the running container reads them."""
    lines = mica.box.kubectl("exec", pod, "--", "cat", "/run/mica/limits/limits").splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return values["gpu.0.priority"], values["gpu.0.weight"]


def test_nothing_is_left_on_the_node_when_pods_are_gone(mica: Platform) -> None:
    mica.box.apply(mica.pod("brief", HOLD, limits=slice_limits(cores=10, memory_gib=1)))
    mica.phase("brief", "Running")
    eventually("the slice's files", mica.node_files)
    mica.delete("pod", "brief")
    eventually("no slice held", lambda: not mica.held())
    eventually("no file left", lambda: not mica.node_files())
