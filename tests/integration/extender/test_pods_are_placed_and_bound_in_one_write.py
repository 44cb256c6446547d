"""The path from a plain pod to a decision, through the real API server and kube-scheduler."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from mica_api import names
from mica_box.errors import BoxError

from .conftest import Installation, Pods, eventually

SLICE = {"mica.dev/vgpu-number": 1, "mica.dev/vgpu-cores": 20, "mica.dev/vgpu-memory-1Gi": 3}


def test_a_plain_pod_is_bound_with_its_decision_in_the_same_write(pods: Pods) -> None:
    with pods.history() as versions:
        pods.create(pods.body("a", SLICE))
        pod = pods.bound("a")
        eventually(lambda: any(v["spec"].get("nodeName") for v in versions()), what="the watch shows the pod bound")
        seen = versions()
    assert [(g["mem"], g["cores"]) for g in pods.shares(pod)] == [(3072, 20)]
    assert pod["metadata"]["labels"][names.LABEL_SLICE] == "true"
    assert pod["spec"]["schedulerName"] == names.SCHEDULER_NAME
    for version in seen:
        assert ("nodeName" in version["spec"]) == (names.allocation_annotation(0) in version["metadata"]["annotations"])


def test_pods_share_a_card_under_binpack_and_take_two_under_spread(pods: Pods) -> None:
    spread = {names.ANNOTATION_GPU_POLICY: "spread"}
    pods.create(pods.body("a", SLICE))
    first = pods.bound("a")
    pods.create(pods.body("b", SLICE))
    second = pods.bound("b")
    assert second["spec"]["nodeName"] == first["spec"]["nodeName"]
    assert pods.shares(second)[0]["uuid"] == pods.shares(first)[0]["uuid"]
    pods.create(pods.body("c", SLICE, annotations=spread))
    third = pods.bound("c")
    assert third["spec"]["nodeName"] == first["spec"]["nodeName"]
    assert pods.shares(third)[0]["uuid"] != pods.shares(first)[0]["uuid"]


def test_spread_over_nodes_takes_an_empty_node(pods: Pods) -> None:
    pods.create(pods.body("a", SLICE))
    first = pods.bound("a")
    pods.create(pods.body("b", SLICE, annotations={names.ANNOTATION_NODE_POLICY: "spread"}))
    assert pods.bound("b")["spec"]["nodeName"] != first["spec"]["nodeName"]


def test_a_pod_that_does_not_fit_names_the_shortage_and_starts_when_room_is_made(pods: Pods) -> None:
    large = {"mica.dev/vgpu-number": 2, "mica.dev/vgpu-memory-1Gi": 60}
    pods.create(*(pods.body(f"full-{i}", large) for i in range(3)))
    for index in range(3):
        pods.bound(f"full-{index}")
    pods.create(pods.body("waiting", {"mica.dev/vgpu-memory-1Gi": 30}))
    message = pods.pending_because("waiting", "CardInsufficientMemory")
    assert "3 CardInsufficientMemory" in message
    pods.delete("full-0")
    pods.bound("waiting", within=5)


def test_a_pod_is_tried_again_when_a_card_recovers(mica: Installation, pods: Pods) -> None:
    def health(value: str) -> None:
        for node in mica.cluster.get("vgpunodes")["items"]:
            for gpu in node["spec"]["gpus"]:
                gpu["health"] = value
            mica.cluster.apply(
                {k: node[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": {"name": node["metadata"]["name"]}}
            )

    health("Unhealthy")
    try:
        pods.create(pods.body("a", SLICE))
        pods.pending_because("a", "CardNotHealth")
    finally:
        health("Healthy")
    pods.bound("a", within=5)


def test_forty_pods_at_once_are_all_bound_and_no_card_is_over_committed(mica: Installation, pods: Pods) -> None:
    pods.create(
        *(
            pods.body(f"p{i}", {"mica.dev/vgpu-number": 1, "mica.dev/vgpu-cores": 10, "mica.dev/vgpu-memory-1Gi": 8})
            for i in range(40)
        )
    )
    used: dict[str, list[int]] = {}
    for index in range(40):
        for gpu in pods.shares(pods.bound(f"p{index}")):
            total = used.setdefault(gpu["uuid"], [0, 0, 0])
            used[gpu["uuid"]] = [total[0] + gpu["mem"], total[1] + gpu["cores"], total[2] + 1]
    assert sum(slices for _, _, slices in used.values()) == 40
    assert all(mem <= 81920 and cores <= 100 and slices <= 10 for mem, cores, slices in used.values())


def test_a_hami_pod_is_accepted_as_it_is(pods: Pods) -> None:
    pods.create(
        pods.body(
            "hami", {"nvidia.com/gpu": 2, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}, schedulerName="hami-scheduler"
        )
    )
    shares = pods.shares(pods.bound("hami"))
    assert [(g["mem"], g["cores"]) for g in shares] == [(3000, 30), (3000, 30)]
    assert len({g["uuid"] for g in shares}) == 2


def _pool(name: str, **compute: Any) -> dict[str, Any]:
    """A pool of these rules that selects no node by itself: the fake nodes say which pool they are in."""
    selector = {"matchLabels": {"pool": name}}
    spec = {"nodeSelector": selector, "compute": compute}
    return {"apiVersion": names.API_VERSION, "kind": "VGPUPool", "metadata": {"name": name}, "spec": spec}


def test_a_high_class_is_given_only_where_a_pool_allows_it(mica: Installation, pods: Pods) -> None:
    """Refused while no pool allows it, not placed in a pool that does not, placed as soon as it does."""
    high = {names.ANNOTATION_COMPUTE_PRIORITY: "high"}

    def refused() -> bool:
        try:
            pods.create(pods.body("high", SLICE, annotations=high))
        except BoxError as error:
            assert "the highest is normal" in str(error)
            return True
        pods.delete("high")
        return False

    def admitted() -> bool:
        try:
            pods.create(pods.body("high", SLICE, annotations=high))
        except BoxError:
            return False
        return True

    mica.cluster.apply(_pool("default"))
    try:
        eventually(refused, what="the extender knows the pool")
        mica.cluster.apply(_pool("elsewhere", highestPriority="High"))
        eventually(admitted, what="the extender knows the other pool")
        pods.pending_because("high", "NodeComputeNotAllowed")
        mica.cluster.apply(_pool("default", highestPriority="High"))
        pods.bound("high", within=10)
    finally:
        mica.cluster.kubectl("delete", "vgpupools", "default", "elsewhere", "--ignore-not-found")


def test_every_app_container_gets_an_annotation(pods: Pods) -> None:
    body = pods.body("two", SLICE)
    body["spec"]["containers"].insert(0, {"name": "web", "image": "unused"})
    pods.create(body)
    annotations = pods.bound("two")["metadata"]["annotations"]
    assert json.loads(annotations[names.allocation_annotation(0)])["gpus"] == []
    assert len(json.loads(annotations[names.allocation_annotation(1)])["gpus"]) == 1


@pytest.mark.parametrize(
    ("limits", "spec", "annotations", "words"),
    [
        ({"mica.dev/vgpu-cores": 101}, {}, {}, "at most 100"),
        ({"nvidia.com/gpu": 1, "mica.dev/vgpu-number": 1}, {}, {}, "mixed"),
        (SLICE, {"nodeName": "kwok-0"}, {}, "nodeName"),
        (SLICE, {"hostPID": True}, {}, "hostPID"),
        (SLICE, {}, {"alloc.mica.dev/c0": "forged"}, "alloc.mica.dev"),
        (
            SLICE,
            {"initContainers": [{"name": "i", "image": "x", "resources": {"limits": {"nvidia.com/gpu": 1}}}]},
            {},
            "init container",
        ),
        ({"nvidia.com/mig-1g.5gb": 1}, {}, {}, "not supported"),
        (SLICE, {}, {names.ANNOTATION_COMPUTE_PRIORITY: "urgent"}, "must be one of low, normal, high"),
        (SLICE, {}, {names.ANNOTATION_COMPUTE_WEIGHT: "10"}, "has no effect"),
    ],
)
def test_impossible_pods_are_refused_in_words(
    pods: Pods, limits: dict[str, Any], spec: dict[str, Any], annotations: dict[str, str], words: str
) -> None:
    with pytest.raises(BoxError, match=words):
        pods.create(pods.body("bad", limits, annotations=annotations, **spec))


@pytest.mark.parametrize(
    ("limits", "annotations", "code"),
    [
        ({"mica.dev/vgpu-memory-1Gi": 81}, {}, "CardInsufficientMemory"),
        (SLICE, {names.ANNOTATION_USE_MODEL: "H100-of-nobody"}, "CardTypeMismatch"),
    ],
    ids=["larger than any card", "no such model"],
)
def test_a_pod_that_no_card_of_today_fits_is_admitted_and_told_why_it_waits(
    mica: Installation, pods: Pods, limits: dict[str, Any], annotations: dict[str, str], code: str
) -> None:
    pods.create(pods.body("early", limits, annotations=annotations))
    eventually(lambda: mica.admin(f"/explain/{pods.namespace}/early", ok=True), what="the extender knows the pod")
    told = json.loads(mica.admin(f"/explain/{pods.namespace}/early"))
    assert {reason["code"] for reason in told["reasons"]} == {code}
    assert told["fitting"] == 0


def test_a_decision_written_by_somebody_else_is_refused(mica: Installation, pods: Pods) -> None:
    pods.create(pods.body("a", SLICE))
    pods.bound("a")
    with pytest.raises(BoxError, match="decisions of Mica"):
        mica.cluster.kubectl("annotate", "pod", "a", "-n", pods.namespace, "--overwrite", "alloc.mica.dev/c0=forged")


def test_pods_that_ask_for_nothing_are_left_alone(mica: Installation, pods: Pods) -> None:
    pods.create(pods.body("plain", {"cpu": "1m"}))
    pod = pods.get("plain")
    assert pod["spec"]["schedulerName"] == "default-scheduler"
    assert names.LABEL_SLICE not in pod["metadata"].get("labels", {})


def test_explain_says_per_node_why_not(mica: Installation, pods: Pods) -> None:
    pods.create(pods.body("big", {"mica.dev/vgpu-number": 3, "mica.dev/vgpu-memory-1Gi": 1}))
    pods.pending_because("big", "NodeInsufficientDevice")
    told = json.loads(mica.admin(f"/explain/{pods.namespace}/big"))
    assert {n["code"] for n in told["nodes"].values()} == {"NodeInsufficientDevice"}


def test_the_metrics_count_what_was_done(mica: Installation, pods: Pods) -> None:
    pods.create(pods.body("a", SLICE))
    pods.bound("a")
    text = mica.admin("/metrics")
    for name in ("filter", "prioritize", "bind", "admission"):
        assert f"mica_extender_{name}_seconds_count" in text


def test_a_killed_extender_comes_back_and_knows_what_is_taken(mica: Installation, pods: Pods) -> None:
    whole = {"mica.dev/vgpu-number": 2}
    pods.create(*(pods.body(f"full-{i}", whole) for i in range(3)))
    for index in range(3):
        pods.bound(f"full-{index}")
    mica.extender.stop(kill=True)
    mica.extender.start()
    mica.wait_ready()
    pods.create(pods.body("after", SLICE))
    pods.pending_because("after", "3 CardInsufficient")
    assert "nodeName" not in pods.get("after")["spec"]
    pods.delete("full-0")
    pods.bound("after", within=5)


def test_sigterm_ends_the_extender_within_two_seconds(mica: Installation, pods: Pods) -> None:
    try:
        assert mica.extender.stop() < 2
        assert mica.extender.child is not None
        assert mica.extender.child.returncode == 0
    finally:
        mica.extender.start()
        mica.wait_ready()
    eventually(lambda: mica.admin("/livez", ok=True))


def test_nobody_without_the_schedulers_certificate_is_heard(mica: Installation) -> None:
    words = ["curl", "-sk", "-m", "5", "-X", "POST", "-d", "{}", f"https://127.0.0.1:{mica.scheduler_port}/bind"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""


def _status(mica: Installation, node: str, **status: Any) -> None:
    """The node's agent reports."""
    mica.cluster.kubectl("patch", "vgpunode", node, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def test_a_slice_stays_taken_until_the_node_agent_lets_go(mica: Installation, pods: Pods) -> None:
    whole = {"mica.dev/vgpu-number": 2}
    pods.create(*(pods.body(f"full-{i}", whole) for i in range(3)))
    for index in range(3):
        first = pods.bound(f"full-{index}")
    gpus = [{"uuid": g["uuid"], "memoryMiB": g["mem"], "cores": g["cores"]} for g in pods.shares(first)]
    held = {"podUID": first["metadata"]["uid"], "namespace": pods.namespace, "pod": "full-2", "container": "main", "gpus": gpus}
    node = first["spec"]["nodeName"]
    _status(mica, node, slices=[held])
    try:
        pods.create(pods.body("next", whole))
        pods.pending_because("next", "")
        pods.delete("full-2")
        pods.pending_because("next", "ExclusiveDeviceAllocateConflict")
        assert "nodeName" not in pods.get("next")["spec"]
    finally:
        _status(mica, node, slices=[])
    assert pods.bound("next", within=5)["spec"]["nodeName"] == node


def test_a_pod_that_the_node_agent_refused_is_replaced_by_its_owner(mica: Installation, pods: Pods) -> None:
    template = pods.body("unused", SLICE)
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": template["spec"]},
    }
    mica.cluster.apply(
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a", "namespace": pods.namespace}, "spec": spec}
    )

    def bound() -> list[dict[str, Any]]:
        items = mica.cluster.get("pods", "-n", pods.namespace)["items"]
        return [pod for pod in items if pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]]

    [first] = eventually(bound)
    meta, node = first["metadata"], first["spec"]["nodeName"]
    refusal = {"podUID": meta["uid"], "namespace": pods.namespace, "pod": meta["name"], "container": "main"}
    _status(mica, node, refusals=[{**refusal, "reason": "OutOfMemory", "message": "in a test"}])
    try:
        eventually(lambda: [p for p in bound() if p["metadata"]["uid"] != meta["uid"]], within=45, what="a new pod is bound")
    finally:
        _status(mica, node, refusals=[])
        mica.cluster.kubectl("delete", "replicaset", "a", "-n", pods.namespace)
