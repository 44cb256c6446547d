"""Each component is killed once on the path of a pod; the path still completes and nothing is left inconsistent."""

from __future__ import annotations

import pytest

from mica_demo.testing import Platform, eventually, slice_limits

HOLD = ["gpu-probe", "--hold", "3600"]


def kill_pods(mica: Platform, component: str) -> None:
    selector = f"app.kubernetes.io/component={component}"
    mica.box.kubectl("-n", "mica-system", "delete", "pod", "-l", selector, "--grace-period=0", "--force")


@pytest.mark.parametrize("component", ["scheduler", "node-agent", "operator", "router"])
def test_a_killed_component_comes_back_and_the_path_completes(mica: Platform, component: str) -> None:
    mica.box.apply(mica.pod("before", HOLD, limits=slice_limits(cores=20, memory_gib=3)))
    mica.phase("before", "Running")
    kill_pods(mica, component)
    eventually("admission again", lambda: _apply(mica), timeout_s=90)
    mica.phase("after", "Running", timeout_s=90)
    assert mica.get("pod", "before")["status"]["containerStatuses"][0]["restartCount"] == 0
    eventually("both slices held, once", lambda: sorted(s["pod"] for s in mica.held()) == ["after", "before"])


def _apply(mica: Platform) -> bool:
    mica.box.apply(mica.pod("after", HOLD, limits=slice_limits(cores=20, memory_gib=3)))
    return True


@pytest.mark.parametrize("daemon", ["kubelet", "kube-apiserver", "containerd"])
def test_a_restarted_daemon_of_the_cluster_leaves_nothing_inconsistent(mica: Platform, daemon: str) -> None:
    mica.box.apply(mica.pod("before", HOLD, limits=slice_limits(cores=20, memory_gib=3)))
    mica.phase("before", "Running")
    mica.box.box.kill(daemon)
    eventually("admission again", lambda: _apply(mica), timeout_s=120)
    mica.phase("after", "Running", timeout_s=120)
    assert mica.get("pod", "before")["status"]["phase"] == "Running"
    eventually("both slices held, once", lambda: sorted(s["pod"] for s in mica.held()) == ["after", "before"])
