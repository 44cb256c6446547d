"""Each component is killed once on the path; the path still completes and nothing is left inconsistent."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from .mica_under_test import Platform, eventually, inference_service, serving_url, slice_limits

HOLD = ["gpu-probe", "--hold", "3600"]


def kill(mica: Platform, component: str) -> None:
    """SIGKILL, as nearly as the API allows it, and wait for the replacement to be Ready."""
    selector = ("-n", "mica-system", "-l", f"app.kubernetes.io/component={component}")
    old = {pod["metadata"]["uid"] for pod in mica.box.get("pods", *selector)["items"]}
    mica.box.kubectl("delete", "pod", *selector, "--grace-period=0", "--force")

    def replaced() -> bool:
        pods = mica.box.get("pods", *selector)["items"]
        return bool(pods) and all(pod["metadata"]["uid"] not in old and _ready(pod) for pod in pods)

    eventually(f"a new {component} to be Ready", replaced, timeout_s=90)


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def restarts(mica: Platform, pod: str) -> int:
    count: int = mica.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"]
    return count


def start(mica: Platform, name: str, *, cores: int, memory_gib: int, **spec: Any) -> None:
    mica.box.apply(mica.pod(name, HOLD, limits=slice_limits(cores=cores, memory_gib=memory_gib), **spec))


def test_a_new_scheduler_counts_what_the_old_one_gave_away(mica: Platform) -> None:
    for name in ("before", "beside"):
        start(mica, name, cores=60, memory_gib=50)
        mica.phase(name, "Running")
    kill(mica, "scheduler")
    eventually("admission again", lambda: start(mica, "after", cores=50, memory_gib=20) or True, timeout_s=60)
    # Until the new scheduler's term begins, the reason is that nobody decides.
    eventually("a reason of its own", lambda: "CardInsufficientCore" in mica.scheduling_message("after"), timeout_s=60)
    mica.delete("pod", "beside")
    mica.phase("after", "Running")
    assert restarts(mica, "before") == 0


def test_a_new_node_agent_knows_the_slices_of_the_old_one(mica: Platform) -> None:
    start(mica, "before", cores=20, memory_gib=3)
    mica.phase("before", "Running")
    kill(mica, "node-agent")
    start(mica, "after", cores=20, memory_gib=3)
    mica.phase("after", "Running", timeout_s=90)
    assert restarts(mica, "before") == 0
    eventually("both slices held, once", lambda: sorted(s["pod"] for s in mica.held()) == ["after", "before"])


def test_serving_survives_the_operator_the_router_and_an_engine(mica: Platform) -> None:
    mica.box.apply(inference_service("sturdy"))
    url = serving_url(mica, "sturdy")

    def answered() -> bool:
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=10) as client:
            return bool(client.completions.create(model="sturdy", prompt="Hello", max_tokens=4).choices[0].text)

    assert answered()
    kill(mica, "router")
    assert answered()
    kill(mica, "operator")
    mica.box.kubectl("delete", "pod", "-l", "mica.dev/inference-service=sturdy", "--grace-period=0", "--force")
    mica.box.apply(inference_service("second"))
    serving_url(mica, "second")
    serving_url(mica, "sturdy")
    assert answered()
    mica.delete("minf", "sturdy", "second")


@pytest.mark.parametrize("daemon", ["kubelet", "kube-apiserver", "containerd"])
def test_a_restarted_daemon_of_the_cluster_leaves_nothing_inconsistent(mica: Platform, daemon: str) -> None:
    start(mica, "before", cores=20, memory_gib=3)
    mica.phase("before", "Running")
    mica.box.box.kill(daemon)
    eventually("admission again", lambda: start(mica, "after", cores=20, memory_gib=3) or True, timeout_s=120)
    mica.phase("after", "Running", timeout_s=120)
    assert restarts(mica, "before") == 0
    eventually("both slices held, once", lambda: sorted(s["pod"] for s in mica.held()) == ["after", "before"])
