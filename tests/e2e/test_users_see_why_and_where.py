"""What people see and do beside creating pods: events, cordons, annotations to read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mica_api import names
from mica_box.errors import BoxError
from mica_box.plan import NODE_NAME

from .mica_under_test import Platform, eventually, slice_limits

HOLD = ["gpu-probe", "--hold", "3600"]


def test_a_waiting_pod_has_one_event_with_the_counts(mica: Platform) -> None:
    wanted = {names.ANNOTATION_USE_MODEL: "T4"}
    mica.box.apply(mica.pod("told", HOLD, limits=slice_limits(cores=10, memory_gib=1), annotations=wanted))
    selector = "reason=FilteringFailed,involvedObject.name=told"

    def events() -> list[dict[str, Any]]:
        return list(mica.box.get("events", "-n", "default", "--field-selector", selector)["items"])

    (event,) = eventually("the event", events)
    assert "0/4 GPU nodes have room: 4 nodes like 4/4 CardTypeMismatch" in event["message"]
    assert "kubectl mica explain told -n default" in event["message"]
    mica.delete("pod", "told")


def test_a_cordoned_gpu_takes_no_new_slices_until_the_cordon_is_lifted(mica: Platform) -> None:
    first, second = (gpu["uuid"] for gpu in mica.box.get("vgpunode", NODE_NAME)["spec"]["gpus"])
    mica.box.kubectl("annotate", "node", NODE_NAME, f"{names.ANNOTATION_CORDONED}={first}")
    try:
        eventually("the cordon", lambda: mica.box.get("vgpunode", NODE_NAME)["spec"]["gpus"][0].get("cordoned"))
        mica.box.apply(
            mica.pod("one", HOLD, limits=slice_limits(cores=10, memory_gib=1)),
            mica.pod("both", HOLD, limits=slice_limits(number=2, cores=10, memory_gib=1)),
        )
        mica.phase("one", "Running")
        (held,) = eventually("the slice", mica.held)
        assert [gpu["uuid"] for gpu in held["gpus"]] == [second]
        assert "CardCordoned" in eventually("a reason", lambda: mica.scheduling_message("both"))
    finally:
        mica.box.kubectl("annotate", "node", NODE_NAME, f"{names.ANNOTATION_CORDONED}-")
    mica.phase("both", "Running")
    mica.delete("pod", "one", "both")


@pytest.mark.parametrize(
    ("limits", "annotation"),
    [
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, "hami.io/vgpu-devices-allocated"),
        ({"volcano.sh/vgpu-number": 1, "volcano.sh/vgpu-memory": 3000}, "volcano.sh/vgpu-ids-new"),
        ({"huawei.com/vgpu-number": 1, "huawei.com/vgpu-cores": 10, "huawei.com/vgpu-memory.1Gi": 3}, "huawei.com/vgpu-node"),
    ],
)
def test_pods_of_other_systems_run_and_carry_what_their_users_read(
    mica: Platform, limits: dict[str, Any], annotation: str
) -> None:
    mica.box.apply(mica.pod("foreign", ["gpu-probe"], limits=limits))
    assert mica.phase("foreign", "Succeeded")["metadata"]["annotations"].get(annotation)
    mica.delete("pod", "foreign")


def test_an_explanation_is_for_whom_the_role_of_it_is_bound_to(mica: Platform) -> None:
    mica.box.apply(mica.pod("why", HOLD, limits=slice_limits(cores=10, memory_gib=1)))
    mica.phase("why", "Running")
    path = "/api/v1/namespaces/mica-system/services/mica-explain/proxy/explain/default/why"

    with pytest.raises(BoxError, match="forbidden"):
        mica.box.kubectl("get", "--raw", path, "--as", "someone")
    mica.box.kubectl("create", "rolebinding", "someone-explains", "-n", "mica-system", "--role=mica-explain", "--user=someone")
    try:
        told = json.loads(mica.box.kubectl("get", "--raw", path, "--as", "someone"))
    finally:
        mica.box.kubectl("delete", "rolebinding", "someone-explains", "-n", "mica-system")
    assert told["node"] == NODE_NAME
    mica.delete("pod", "why")
