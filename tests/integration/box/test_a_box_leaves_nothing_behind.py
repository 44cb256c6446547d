"""Up, down, interrupted, half dead: what a box does to the machine it runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from mica_box import processes
from mica_box.box import Box
from mica_box.images.catalogue import load_pause
from mica_box.plan import Mode

Workshop = Any
INTERRUPTED = 130


def idle_pod(name: str, image: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: "{image}", imagePullPolicy: Never}}]
"""


def run_pod(box: Box, name: str, image: str) -> None:
    box.kubectl("wait", "--for=create", "--timeout=30s", "serviceaccount/default")
    box.kubectl("apply", "-f", "-", stdin=idle_pod(name, image))
    box.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"pod/{name}")


def test_a_full_box_runs_pods_and_is_gone_without_a_trace(workshop: Workshop, spare_name: Callable[[], str]) -> None:
    name = spare_name()
    before = workshop.traces(name)
    box = workshop.up(name, Mode.FULL)
    run_pod(box, "idle", load_pause(workshop.paths, box)["pause"])
    during = workshop.traces(name)
    assert during.processes
    assert during.cgroups
    assert box.plan.host_interface in during.links
    assert during.sysctls == before.sysctls, "kubelet must not change the host's kernel settings"
    assert during.mounts == before.mounts, "mounts stay inside the box"

    assert workshop.down(name)
    assert workshop.traces(name) == before


def test_an_interrupted_up_leaves_nothing(workshop: Workshop, spare_name: Callable[[], str]) -> None:
    name = spare_name()
    before = workshop.traces(name)
    spec = workshop.paths.boxes / name / "spec.json"
    with subprocess.Popen(workshop.command("up", name), stderr=subprocess.PIPE, text=True) as up:
        wait_for(lambda: processes.init_pid(spec))
        up.send_signal(signal.SIGINT)
        said = up.communicate(timeout=60)[1]
    assert up.returncode == INTERRUPTED, said
    assert workshop.traces(name) == before


def test_a_box_whose_up_was_killed_is_made_anew(workshop: Workshop, spare_name: Callable[[], str]) -> None:
    name = spare_name()
    spec = workshop.paths.boxes / name / "spec.json"
    with subprocess.Popen(workshop.command("up", name, "--mode", "apiserver-only"), stderr=subprocess.DEVNULL) as up:
        wait_for(lambda: processes.init_pid(spec))
        up.kill()
    box = workshop.up(name)
    assert box.kubectl("get", "--raw", "/readyz") == "ok"


def test_a_dead_box_is_made_anew_and_a_healthy_one_is_kept(workshop: Workshop, spare_name: Callable[[], str]) -> None:
    box = workshop.up(spare_name())
    first = box.init()
    assert workshop.up(box.name).init() == first
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: processes.init_pid(box.spec) is None)
    again = workshop.up(box.name)
    assert again.init() != first
    assert again.kubectl("get", "--raw", "/readyz") == "ok"


def test_down_of_what_is_not_there_is_no_error(workshop: Workshop) -> None:
    done = workshop.run("down", "never-was")
    assert done.returncode == 0, done.stderr
    assert "there was no box never-was" in done.stderr


def test_a_daemon_that_dies_during_up_is_reported_with_the_end_of_its_log(
    workshop: Workshop, spare_name: Callable[[], str], tmp_path: Any
) -> None:
    name = spare_name()
    broken = tmp_path / "kube-apiserver"
    broken.write_text("#!/bin/sh\necho 'unknown flag: --made-up'\nexit 3\n")
    broken.chmod(0o755)
    before = workshop.traces(name)
    workshop.programs["kube-apiserver"], good = broken, workshop.programs["kube-apiserver"]
    try:
        with pytest.raises(Exception, match="kube-apiserver ended with status 3") as failed:
            workshop.up(name)
    finally:
        workshop.programs["kube-apiserver"] = good
    assert "unknown flag: --made-up" in str(failed.value)
    assert workshop.traces(name) == before


@pytest.mark.slow
def test_two_full_boxes_live_side_by_side(workshop: Workshop, spare_name: Callable[[], str]) -> None:
    one, two = (workshop.up(spare_name(), Mode.FULL) for _ in range(2))
    for box in (one, two):
        run_pod(box, "idle", load_pause(workshop.paths, box)["pause"])
    for box, file in ((one, "one"), (two, "two")):
        box.exec("touch", f"/run/mica/{file}", f"/var/lib/mica/{file}")
        assert box.exec("ls", "/var/lib/mica").split() == [file]
    two.kill("kubelet")
    # Two kubelets on one cgroup root clean up each other's pods within seconds of a restart.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for box in (one, two):
            assert box.kubectl("get", "pod", "idle", "-o", "jsonpath={.status.containerStatuses[0].restartCount}") == "0"
        time.sleep(2)
    workshop.down(one.name)
    assert two.kubectl("get", "pod", "idle", "-o", "jsonpath={.status.phase}") == "Running"
    assert two.exec("ls", "/run/mica").split() == ["sim", "two"]


def wait_for(check: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
