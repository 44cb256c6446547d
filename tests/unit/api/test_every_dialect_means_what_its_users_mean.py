from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.dialects import DIALECTS, FLEXAI, HAMI, MICA, VOLCANO, card_types, match_expression, translate
from mica_api.request import ContainerRequest, InvalidRequest, canonical_resources

NOTHING = ContainerRequest("c")


def _request(number: int, cores: int, mib: int = 0, percent: int = 0) -> ContainerRequest:
    return ContainerRequest("c", number=number, cores=cores, memory_mib=mib, memory_percent=percent)


@pytest.mark.parametrize(
    ("limits", "request_"),
    [
        # Mica: number only is whole cards, the rest implies one card.
        ({"mica.dev/vgpu-number": "2"}, _request(2, 100)),
        ({"mica.dev/vgpu-cores": "20"}, _request(1, 20)),
        ({"mica.dev/vgpu-memory-1Gi": "3"}, _request(1, 0, 3072)),
        ({"mica.dev/vgpu-number": "1", "mica.dev/vgpu-cores": "20", "mica.dev/vgpu-memory-1Gi": "3"}, _request(1, 20, 3072)),
        ({"mica.dev/vgpu-number": "0"}, NOTHING),
        # HAMi: MiB, a percentage that loses against an amount, and whole cards are exclusive.
        ({"nvidia.com/gpu": "1"}, _request(1, 100)),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "1500"}, _request(1, 0, 1500)),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpucores": "30"}, _request(1, 30)),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"}, _request(1, 0, 0, 50)),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "1500", "nvidia.com/gpumem-percentage": "50"}, _request(1, 0, 1500)),
        ({"nvidia.com/gpumem": "1500"}, _request(1, 0, 1500)),
        ({"nvidia.com/gpucores": "30"}, _request(1, 30)),
        # A priority is the pod's, not the slice's: it changes no amount.
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "1500", "nvidia.com/priority": "1"}, _request(1, 0, 1500)),
        # Volcano: a bare number is not capped, and the percentage wins.
        ({"volcano.sh/vgpu-number": "1"}, _request(1, 0)),
        ({"volcano.sh/vgpu-memory": "1500"}, _request(1, 0, 1500)),
        (
            {"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": "1500", "volcano.sh/vgpu-memory-percentage": "50"},
            _request(1, 0, 0, 50),
        ),
        ({"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-cores": "40"}, _request(1, 40)),
        # Flex:ai: both spellings of the memory.
        ({"huawei.com/vgpu-number": "1"}, _request(1, 100)),
        ({"huawei.com/vgpu-number": "1", "huawei.com/vgpu-memory.1Gi": "2"}, _request(1, 0, 2048)),
        (
            {"huawei.com/vgpu-number": "1", "huawei.com/vgpu-memory-1Gi": "2", "huawei.com/vgpu-cores": "25"},
            _request(1, 25, 2048),
        ),
        # Resources of nobody.
        ({"cpu": "1", "nvidia.com/other": "1"}, NOTHING),
        ({}, NOTHING),
    ],
)
def test_limits_become_one_request(limits: dict[str, str], request_: ContainerRequest) -> None:
    assert translate("c", limits) == request_


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"mica.dev/vgpu-cores": "101"}, "at most 100; for more compute ask for more GPUs"),
        ({"mica.dev/vgpu-number": "17"}, "between 0 and 16"),
        ({"mica.dev/vgpu-number": "-1"}, "write a whole number that is not negative"),
        ({"mica.dev/vgpu-number": "1.5"}, "write a whole number that is not negative"),
        ({"mica.dev/vgpu-number": "1k"}, "is 1000; it must be between 0 and 16"),
        ({"mica.dev/vgpu-number": "0", "mica.dev/vgpu-cores": "10"}, "remove them or ask for at least 1"),
        ({"mica.dev/vgpu-number": "1", "nvidia.com/gpu": "1"}, "resources of Mica and HAMi are mixed"),
        ({"volcano.sh/vgpu-number": "1", "huawei.com/vgpu-number": "1"}, "resources of Volcano vGPU and Flex:ai are mixed"),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "101"}, "at most 100"),
        ({"nvidia.com/priority": "1"}, "without nvidia.com/gpu"),
        ({"nvidia.com/mig-1g.10gb": "1"}, "is not supported; ask for a slice with nvidia.com/gpu"),
        ({"huawei.com/vgpu-type.a100": "1"}, "without huawei.com/vgpu-number"),
        ({"huawei.com/vgpu-number": "1", "huawei.com/vgpu-cores": "7"}, "must be a multiple of 5"),
        (
            {"huawei.com/vgpu-number": "1", "huawei.com/vgpu-memory-1Gi": "1", "huawei.com/vgpu-memory.1Gi": "2"},
            "differ; write one of them",
        ),
        ({"volcano.sh/vgpu-cores": "10"}, "without volcano.sh/vgpu-number; add volcano.sh/vgpu-number: 1"),
        ({"huawei.com/vgpu-memory-1Gi": "1"}, "without huawei.com/vgpu-number"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_change(limits: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refusal:
        translate("main", limits)
    assert "main" in str(refusal.value)


def test_a_type_of_card_is_chosen_by_a_resource_of_its_own() -> None:
    limits = {"huawei.com/vgpu-number": "1", "huawei.com/vgpu-type.L20": "1", "huawei.com/vgpu-type.P4": "0"}
    assert translate("c", limits) == _request(1, 100)
    assert card_types("c", limits) == {"L20"}
    for wrong in ("huawei.com/vgpu-type.L20", "huawei.com/vgpu-type."):
        with pytest.raises(InvalidRequest, match=r"write huawei\.com/vgpu-type\.<type>: 1"):
            card_types("c", {wrong: "2"})


_resources = [resource for dialect in DIALECTS for resource in dialect.resources]
_any_limits = st.dictionaries(
    st.sampled_from(_resources) | st.text(max_size=20),
    st.integers(-5, 200).map(str) | st.text(max_size=14),
    max_size=4,
)


@given(_any_limits)
def test_any_limits_are_translated_or_refused(limits: dict[str, str]) -> None:
    try:
        request = translate("c", limits)
    except InvalidRequest:
        return
    assert request.asks == (request != NOTHING)


@given(number=st.integers(1, 16), cores=st.integers(0, 100), gib=st.integers(0, 2**20))
def test_what_admission_writes_reads_back_as_the_same_request(number: int, cores: int, gib: int) -> None:
    request = _request(number, cores, gib * 1024)
    written = {key: str(value) for key, value in canonical_resources(request).items()}
    again = translate("c", written)
    assert (again.number, again.memory_mib) == (request.number, request.memory_mib)
    # Uncapped whole memory has no spelling of its own: a bare number is whole cards. The annotation keeps the difference.
    assert again.cores == request.cores or (cores == 0 and gib == 0)


def test_names_belong_to_one_dialect() -> None:
    assert len(_resources) == len(set(_resources))
    assert [d.name for d in (MICA, HAMI, VOLCANO, FLEXAI)] == [d.name for d in DIALECTS]


def test_the_match_expression_knows_every_name() -> None:
    expression = match_expression("pod")
    assert all(f"'{resource}'" in expression for resource in _resources)
    assert "k.startsWith('nvidia.com/mig-')" in expression
    assert expression.startswith("(pod.spec.containers + pod.spec.?initContainers.orValue([]))")
