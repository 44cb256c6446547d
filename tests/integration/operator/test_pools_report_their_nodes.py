from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mica_box.simulated import cards, vgpu_node
from mica_box.testing import RunningBox

WaitFor = Callable[..., Any]


def _pools(box: RunningBox) -> list[str]:
    return [str(p["metadata"]["name"]) for p in box.get("vgpupools")["items"]]


def test_there_is_a_default_pool_and_it_comes_back_only_when_it_was_the_last(
    op_box: RunningBox, operator: Any, wait_for: WaitFor
) -> None:
    wait_for(lambda: _pools(op_box) == ["default"])
    first = op_box.get("vgpupool", "default")["metadata"]["uid"]
    op_box.kubectl("delete", "vgpupool", "default", "--timeout=20s")
    wait_for(lambda: _pools(op_box) == ["default"] and op_box.get("vgpupool", "default")["metadata"]["uid"] != first)
    op_box.apply({"apiVersion": "mica.dev/v1alpha1", "kind": "VGPUPool", "metadata": {"name": "mine"}, "spec": {}})
    op_box.kubectl("delete", "vgpupool", "default", "--timeout=20s")
    wait_for(lambda: op_box.get("vgpupool", "mine").get("status"))
    assert _pools(op_box) == ["mine"]
    op_box.kubectl("delete", "vgpupool", "mine", "--timeout=20s")
    wait_for(lambda: _pools(op_box) == ["default"])


def test_slices_on_nodes_add_up_in_the_pool(op_box: RunningBox, operator: Any, wait_for: WaitFor) -> None:
    wait_for(lambda: op_box.get("vgpupool", "default").get("status", {}).get("conditions"))
    gpus = cards("pool-node", 2)
    node = vgpu_node("pool-node", gpus, pool="default", max_slices=10)
    op_box.apply(node)
    wait_for(lambda: op_box.get("vgpupool", "default")["status"]["gpus"] == 2)
    held = {
        "podUID": "u",
        "namespace": "d",
        "pod": "p",
        "container": "c",
        "gpus": [{"uuid": gpus[0].uuid, "memoryMiB": 3072, "cores": 20}],
    }
    op_box.kubectl(
        "patch", "vgpunode", "pool-node", "--subresource=status", "--type=merge", "-p", json.dumps({"status": {"slices": [held]}})
    )
    wait_for(lambda: op_box.get("vgpupool", "default")["status"]["allocated"]["slices"] == 1)
    shown = op_box.kubectl("get", "vgpupools", "default", "--no-headers").split()
    assert " ".join(shown[:9]) == "default 1 2 1/20 20/200 % 3/160 GiB True"
    op_box.kubectl("delete", "vgpunode", "pool-node")
    wait_for(lambda: op_box.get("vgpupool", "default")["status"]["nodes"] == 0)
    conditions = {c["type"]: c for c in op_box.get("vgpupool", "default")["status"]["conditions"]}
    ready = conditions["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "NoNodes")
