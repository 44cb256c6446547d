from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.allocation import GPUShare
from mica_api.hami import MAX_BYTES, Bound, dialects_of, encode_devices, read_back

A = GPUShare("GPU-a", 8000, 30)
B = GPUShare("GPU-b", 8000, 30)
HAMI, VOLCANO, FLEXAI = frozenset({"HAMi"}), frozenset({"Volcano vGPU"}), frozenset({"Flex:ai"})

shares = st.builds(
    GPUShare,
    st.from_regex(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}", fullmatch=True),
    st.integers(1, 2**20),
    st.integers(0, 100),
)
pods = st.lists(st.lists(shares, max_size=3).map(tuple), min_size=1, max_size=5).map(tuple)


def test_a_hami_user_finds_node_time_and_devices() -> None:
    assert read_back(Bound("n1", ((), (A, B)), 1_700_000_000), HAMI) == {
        "hami.io/vgpu-node": "n1",
        "hami.io/vgpu-time": "1700000000",
        "hami.io/bind-time": "1700000000",
        "hami.io/vgpu-devices-allocated": ";GPU-a,NVIDIA,8000,30:GPU-b,NVIDIA,8000,30:;",
    }


def test_init_containers_come_first_and_hold_nothing() -> None:
    bound = Bound("n1", ((A,),), 0, init_containers=2)
    assert read_back(bound, HAMI)["hami.io/vgpu-devices-allocated"] == ";;GPU-a,NVIDIA,8000,30:;"
    assert read_back(bound, VOLCANO)["volcano.sh/vgpu-ids-new"] == "GPU-a,NVIDIA,8000,30:"


def test_a_volcano_user_finds_the_list_without_a_separator_at_the_end() -> None:
    assert read_back(Bound("n1", ((A,), ()), 7), VOLCANO) == {
        "volcano.sh/vgpu-node": "n1",
        "volcano.sh/vgpu-time": "7",
        "volcano.sh/bind-time": "7",
        "volcano.sh/vgpu-ids-new": "GPU-a,NVIDIA,8000,30:;",
    }


def test_a_flexai_user_finds_the_node_and_nanoseconds_but_no_invented_slot_numbers() -> None:
    assert read_back(Bound("n1", ((A,),), 7), FLEXAI) == {
        "huawei.com/vgpu-node": "n1",
        "huawei.com/bind-time": "7000000000",
    }


def test_nobody_else_gets_any_of_them() -> None:
    assert read_back(Bound("n1", ((A,),), 7), frozenset()) == {}


def as_others_read(value: str) -> tuple[tuple[GPUShare, ...], ...]:
    """Containers end with a semicolon, devices with a colon; a device is UUID, type, MiB and percent."""
    fields = [[item.split(",") for item in container.split(":")[:-1]] for container in value.split(";")]
    return tuple(tuple(GPUShare(uuid, int(mib), int(cores)) for uuid, _, mib, cores in container) for container in fields)


@given(pods)
def test_lists_read_back_as_what_was_written(containers: tuple[tuple[GPUShare, ...], ...]) -> None:
    assert as_others_read(encode_devices(containers)) == (*containers, ())
    volcano = read_back(Bound("n", containers, 0), VOLCANO)["volcano.sh/vgpu-ids-new"]
    assert as_others_read(volcano) == containers


def test_a_pod_of_very_many_containers_gets_no_list_rather_than_a_cut_one() -> None:
    many = tuple((GPUShare(f"GPU-{i:036d}", 1, 1),) for i in range(1000))
    both = read_back(Bound("n1", many, 7), HAMI | VOLCANO)
    assert sum(len(value) for value in both.values()) <= MAX_BYTES
    assert "hami.io/vgpu-devices-allocated" not in both
    assert both["hami.io/vgpu-node"] == both["volcano.sh/vgpu-node"] == "n1"


def test_the_dialects_of_a_pod_are_those_it_was_written_in() -> None:
    original = json.dumps({"a": {"nvidia.com/gpu": "1"}, "b": {"huawei.com/vgpu-number": "1"}})
    assert dialects_of(original) == HAMI | FLEXAI
    assert dialects_of(json.dumps({"a": {"volcano.sh/vgpu-number": "1"}})) == VOLCANO
    assert dialects_of("") == frozenset()


@pytest.mark.parametrize("original", ["{", "[]", "3", "null", '{"a": 1}', '{"a": {"mica.dev/vgpu-number": "1"}}', "[" * 100_000])
def test_an_annotation_that_is_none_of_ours_names_no_dialect(original: str) -> None:
    assert dialects_of(original) == frozenset()
