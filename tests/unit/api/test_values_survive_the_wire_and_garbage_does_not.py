from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.allocation import (
    MAX_BYTES,
    ContainerAllocation,
    GPUShare,
    InvalidAllocation,
    decode_allocation,
    decode_pod_allocation,
    encode_allocation,
    encode_pod_allocation,
    mismatch,
)
from mica_api.request import (
    MAX_NUMBER,
    ContainerRequest,
    InitRequest,
    InvalidRequest,
    PodRequest,
    canonical_resources,
    decode_request,
    encode_request,
    read_request,
)

_uuids = st.text("0123456789abcdef", min_size=1, max_size=12).map("GPU-{}".format)
_shares = st.builds(GPUShare, _uuids, st.integers(1, 2**31), st.integers(0, 100))
_allocations = st.builds(
    ContainerAllocation,
    st.uuids().map(str),
    st.from_regex(r"\A[a-z]([a-z0-9-]{0,20}[a-z0-9])?\Z"),
    st.lists(_shares, max_size=8, unique_by=lambda s: s.uuid).map(tuple),
)
_names = st.from_regex(r"\A[a-z]{1,8}\Z")
_containers = st.builds(
    ContainerRequest, _names, number=st.integers(0, MAX_NUMBER), cores=st.integers(0, 100), memory_mib=st.integers(0, 2**31)
) | st.builds(ContainerRequest, _names, number=st.integers(0, MAX_NUMBER), memory_percent=st.integers(0, 100))
_inits = st.lists(st.builds(InitRequest, _containers, st.booleans()), max_size=3)
_pods = st.builds(
    lambda found, init: PodRequest(tuple(found), tuple(init)),
    st.lists(_containers, max_size=3, unique_by=lambda c: c.name),
    st.just([]) | _inits,
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_garbage = st.text(max_size=60) | _json.map(json.dumps)


def _mutations(good: str) -> st.SearchStrategy[str]:
    """Valid values with one part replaced by something else."""
    parsed = json.loads(good)

    def mutate(key: str, value: Any) -> str:
        return json.dumps({**parsed, key: value})

    return st.builds(mutate, st.sampled_from([*parsed, "extra"]), _json)


GOOD = encode_allocation(ContainerAllocation("u", "n", (GPUShare("GPU-1", 3072, 20),)))
GOOD_REQUEST = encode_request(PodRequest((ContainerRequest("main", number=1, cores=20, memory_mib=3072),)))
WITH_INIT = encode_request(
    PodRequest((ContainerRequest("main", number=1),), (InitRequest(ContainerRequest("load", number=1), restartable=True),))
)


@given(_allocations)
def test_an_allocation_reads_back_as_it_was_written(allocation: ContainerAllocation) -> None:
    assert decode_allocation(encode_allocation(allocation)) == allocation


@given(_garbage | _mutations(GOOD))
def test_a_bad_allocation_is_refused_and_never_crashes(value: str) -> None:
    try:
        decoded = decode_allocation(value)
    except InvalidAllocation:
        return
    assert decode_allocation(encode_allocation(decoded)) == decoded


@given(_pods)
def test_a_request_reads_back_as_it_was_written(request_: PodRequest) -> None:
    assert decode_request(encode_request(request_)) == request_


@given(_garbage | _mutations(GOOD_REQUEST) | _mutations(WITH_INIT))
def test_a_bad_request_is_refused_and_never_crashes(value: str) -> None:
    try:
        decoded = decode_request(value)
    except InvalidRequest:
        return
    assert decode_request(encode_request(decoded)) == decoded


def test_the_wire_form_is_the_documented_one() -> None:
    assert GOOD == '{"v":1,"uid":"u","node":"n","gpus":[{"uuid":"GPU-1","mem":3072,"cores":20}]}'
    main = '{"name":"main","number":1,"cores":20,"mem":3072,"memPercent":0}'
    assert f'{{"v":1,"containers":[{main}]}}' == GOOD_REQUEST
    bare = '"number":1,"cores":0,"mem":0,"memPercent":0'
    init = f'[{{"name":"load",{bare},"restartable":true}}]'
    assert f'{{"v":2,"containers":[{{"name":"main",{bare}}}],"init":{init}}}' == WITH_INIT


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[" * 100_000, "larger than"),
        ("[" * 4000, "malformed"),
        (GOOD.replace('"v":1', '"v":2'), "version 2"),
        (GOOD.replace('"mem":3072', '"mem":0'), "out of range"),
        (GOOD.replace('"mem":3072', '"mem":true'), "malformed GPU entry"),
        (GOOD.replace('"cores":20', '"cores":101'), "out of range"),
        (GOOD.replace("GPU-1", "GPU\\n1"), "malformed GPU UUID"),
        (GOOD.replace('"uid":"u"', '"uid":1'), "must be strings"),
        (GOOD.replace("}]", '},{"uuid":"GPU-1","mem":1,"cores":1}]'), "distinct"),
    ],
)
def test_each_rule_of_an_allocation_is_enforced(value: str, words: str) -> None:
    with pytest.raises(InvalidAllocation, match=words):
        decode_allocation(value)


def test_an_allocation_that_would_be_too_large_is_not_written() -> None:
    shares = tuple(GPUShare(f"GPU-{i:060d}", 1, 1) for i in range(60))
    with pytest.raises(InvalidAllocation, match=str(MAX_BYTES)):
        encode_allocation(ContainerAllocation("u", "n", shares))


def test_every_number_of_gpus_that_can_be_asked_for_can_be_decided() -> None:
    uid, node = "0" * 36, "n" * 253
    shares = tuple(GPUShare(f"GPU-{i:076d}", 2**31, 100) for i in range(MAX_NUMBER))
    decoded = decode_allocation(encode_allocation(ContainerAllocation(uid, node, shares)))
    assert ContainerRequest("c", number=MAX_NUMBER).number == len(decoded.shares)
    with pytest.raises(InvalidRequest, match=f"between 0 and {MAX_NUMBER}"):
        ContainerRequest("c", number=MAX_NUMBER + 1)
    with pytest.raises(InvalidAllocation, match=f"{MAX_NUMBER} at most"):
        encode_allocation(ContainerAllocation("u", "n", (*shares, GPUShare("GPU-x", 1, 1))))


def test_every_container_of_a_pod_has_its_own_decision() -> None:
    annotations = encode_pod_allocation(pod_uid="u", node="n", shares=[[GPUShare("GPU-1", 1, 1)], []])
    assert annotations.keys() == {"alloc.mica.dev/c0", "alloc.mica.dev/c1"}
    decoded = decode_pod_allocation(annotations, 2)
    assert decoded is not None
    assert [len(d.shares) for d in decoded] == [1, 0]
    assert decode_pod_allocation({"other": "x"}, 2) is None
    for containers in (1, 3):
        with pytest.raises(InvalidAllocation, match="expected exactly the annotations"):
            decode_pod_allocation(annotations, containers)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([], "0 GPUs decided, 1 requested"),
        ([GPUShare("GPU-9", 3072, 20)], "GPU-9 is not on this node"),
        ([GPUShare("GPU-1", 3071, 20)], "3071 MiB decided on GPU-1, 3072 MiB requested"),
        ([GPUShare("GPU-1", 3072, 21)], "21 % cores decided"),
        ([GPUShare("GPU-1", 3072, 20)], None),
    ],
)
def test_a_decision_that_is_not_what_was_asked_for_is_told(shares: list[GPUShare], words: str | None) -> None:
    found = mismatch(ContainerRequest("c", number=1, cores=20, memory_mib=3072), shares, {"GPU-1": 81920})
    assert found is None if words is None else found is not None and words in found


def test_shares_of_a_card_are_rounded_down_to_whole_mebibytes() -> None:
    assert ContainerRequest("c", number=1, memory_percent=33).memory_on(1000) == 330
    assert ContainerRequest("c", number=1, memory_percent=50).memory_on(1001) == 500
    assert ContainerRequest("c", number=1).memory_on(1001) == 1001


@given(_pods.filter(lambda request_: not request_.init))
def test_an_admitted_pod_is_read_by_its_annotation_and_its_resources(request_: PodRequest) -> None:
    containers = [(c.name, {k: str(v) for k, v in canonical_resources(c).items()}) for c in request_.containers]
    assert read_request(containers, {"mica.dev/request": encode_request(request_)}) == request_


@pytest.mark.parametrize(
    ("containers", "annotations", "words"),
    [
        ([("main", {})], {}, "was not admitted by Mica's webhook; create it again"),
        (
            [("main", {"mica.dev/vgpu-number": "1"})],
            {"mica.dev/request": WITH_INIT},
            "init containers, which are not supported yet",
        ),
        ([("other", {})], {"mica.dev/request": GOOD_REQUEST}, "does not list the pod's containers in order"),
        ([("main", {"mica.dev/vgpu-number": "2"})], {"mica.dev/request": GOOD_REQUEST}, "differ"),
        ([("main", {})], {"mica.dev/request": GOOD_REQUEST}, "differ"),
    ],
)
def test_resources_that_do_not_prove_the_annotation_are_refused(
    containers: list[tuple[str, dict[str, str]]], annotations: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_request(containers, annotations)
