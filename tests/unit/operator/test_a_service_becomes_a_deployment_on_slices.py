from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.dialects import translate
from mica_api.models import InferenceService
from mica_api.models.inference_service import SliceSpec
from mica_api.request import MAX_NUMBER
from mica_operator.core.children import deployment_body, service_body
from mica_operator.core.engines import engine_command, gpu_role, slice_limits, takes_whole_cards

Make = Callable[..., InferenceService]


def _deployment(service: InferenceService) -> dict[str, Any]:
    return deployment_body(service, gpu_role(service, service.replicas), "image:1")


def _args(service: InferenceService) -> tuple[str, ...]:
    return engine_command(service, gpu_role(service, 1)).args


def _container(service: InferenceService) -> dict[str, Any]:
    (container,) = _deployment(service)["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize(
    ("slice_", "limits"),
    [
        ({}, {"mica.dev/vgpu-number": "1"}),
        ({"cores": 20}, {"mica.dev/vgpu-number": "1", "mica.dev/vgpu-cores": "20"}),
        ({"memory": "3Gi"}, {"mica.dev/vgpu-number": "1", "mica.dev/vgpu-memory-1Gi": "3"}),
        ({"memory": "3072Mi"}, {"mica.dev/vgpu-number": "1", "mica.dev/vgpu-memory-1Gi": "3"}),
        (
            {"number": 2, "cores": 50, "memory": "1536Mi"},
            {"nvidia.com/gpu": "2", "nvidia.com/gpucores": "50", "nvidia.com/gpumem": "1536"},
        ),
    ],
)
def test_the_slice_is_asked_for_to_the_mebibyte(slice_: dict[str, Any], limits: dict[str, str]) -> None:
    assert slice_limits(SliceSpec.model_validate(slice_)) == limits


def test_what_a_slice_chooses_of_the_compute_is_written_on_its_pods(service: Make) -> None:
    chosen = {"policy": "Conserving", "priority": "High"}
    body = _deployment(service(slice={"cores": 20, "compute": chosen}))
    annotations = body["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"mica.dev/compute-policy": "conserving", "mica.dev/compute-priority": "high"}
    plain = _deployment(service(slice={"memory": "4Gi", "compute": {"weight": 300}}))
    assert plain["spec"]["template"]["metadata"]["annotations"] == {"mica.dev/compute-weight": "300"}
    assert "annotations" not in _deployment(service(slice={"cores": 20}))["spec"]["template"]["metadata"]


@given(
    st.builds(
        SliceSpec,
        number=st.integers(1, MAX_NUMBER),
        cores=st.none() | st.integers(1, 100),
        memory=st.none()
        | st.builds("{}{}".format, st.integers(1, 9_999_999).filter(lambda n: n < 2**21), st.sampled_from(["Mi", "Gi"])),
    ).filter(lambda s: (s.memory_mib or 0) <= 2**31)
)
def test_admission_reads_back_what_the_service_wants(wanted: SliceSpec) -> None:
    request = translate("engine", slice_limits(wanted))
    assert (request.number, request.memory_mib, request.memory_percent) == (wanted.number, wanted.memory_mib or 0, 0)
    whole = wanted.cores is None and wanted.memory is None
    assert request.cores == (100 if whole else wanted.cores or 0)
    assert request.exclusive == takes_whole_cards(wanted)


@pytest.mark.parametrize(
    ("engine", "args"),
    [
        ({"type": "llamacpp"}, "--model /m/tiny.gguf --alias tiny --host 0.0.0.0 --port 8000"),
        (
            {"type": "llamacpp", "args": ["--ctx", "512"], "port": 9},
            "--model /m/tiny.gguf --alias tiny --host 0.0.0.0 --port 9 --ctx 512",
        ),
        ({"type": "vllm"}, "--model /m/tiny.gguf --served-model-name tiny --host 0.0.0.0 --port 8000"),
        ({"type": "custom", "image": "x", "args": ["serve"]}, "serve"),
    ],
)
def test_each_engine_type_is_told_model_name_and_port(service: Make, engine: dict[str, Any], args: str) -> None:
    assert " ".join(_args(service(engine=engine))) == args


def test_vllm_splits_a_model_over_the_cards_of_the_slice(service: Make) -> None:
    assert _args(service(engine={"type": "vllm"}, slice={"number": 4}))[-2:] == ("--tensor-parallel-size", "4")
    told = service(engine={"type": "vllm", "args": ["--tensor-parallel-size=2"]}, slice={"number": 4})
    assert _args(told)[-1] == "--tensor-parallel-size=2"
    assert "--tensor-parallel-size" not in _args(told)


def test_the_model_name_is_the_service_unless_it_has_its_own(service: Make) -> None:
    named = service(model={"uri": "file:///m", "name": "org/model-7b"})
    assert "org/model-7b" in _args(named)
    assert named.model_name == "org/model-7b"


def test_a_custom_engine_keeps_its_command(service: Make) -> None:
    engine = {"type": "custom", "image": "x", "command": ["/bin/serve"], "env": [{"name": "A", "value": "1"}, {"name": "B"}]}
    container = _container(service(engine=engine))
    assert container["command"] == ["/bin/serve"]
    assert "args" not in container
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B"}]


def test_children_belong_to_the_service(service: Make) -> None:
    for body in (_deployment(service()), service_body(service())):
        (owner,) = body["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceService", "u-1", True)
        assert body["metadata"]["labels"]["mica.dev/inference-service"] == "tiny"
        assert body["metadata"]["namespace"] == "ml"


def test_the_service_selects_exactly_the_replicas(service: Make) -> None:
    deployment, endpoint = _deployment(service()), service_body(service())
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert endpoint["spec"]["selector"].items() <= labels
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    (port,) = endpoint["spec"]["ports"]
    assert port["name"] == port["targetPort"] == "http"


def test_admission_alone_marks_pods_as_slices(service: Make) -> None:
    assert "mica.dev/slice" not in _deployment(service())["spec"]["template"]["metadata"]["labels"]


def test_whole_cards_are_freed_before_they_are_asked_for_again(service: Make) -> None:
    def rollout(**slice_: Any) -> dict[str, int]:
        found: dict[str, int] = _deployment(service(slice=slice_))["spec"]["strategy"]["rollingUpdate"]
        return found

    assert rollout() == rollout(cores=100, memory="8Gi") == {"maxSurge": 0, "maxUnavailable": 1}
    assert rollout(cores=20) == rollout(memory="8Gi") == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_engine_may_load_for_half_an_hour_and_no_token_is_mounted(service: Make) -> None:
    pod = _deployment(service(placement={"nodeSelector": {"a": "b"}}))["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["nodeSelector"] == {"a": "b"}
    startup = pod["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 1800
