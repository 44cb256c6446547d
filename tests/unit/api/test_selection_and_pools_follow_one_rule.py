from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.models import VGPUPool
from mica_api.policies import Weights
from mica_api.pools import resolve_pool
from mica_api.request import InvalidRequest
from mica_api.selection import Selection, canonical_selection, read_selection


@pytest.mark.parametrize(
    ("annotations", "selection"),
    [
        ({}, Selection()),
        ({"mica.dev/node-policy": "Binpack"}, Selection(node_policy="binpack")),
        ({"hami.io/gpu-scheduler-policy": "spread"}, Selection(gpu_policy=("spread",))),
        ({"nvidia.com/use-gputype": "A100, H100"}, Selection(use_models=frozenset({"a100", "h100"}))),
        ({"nvidia.com/nouse-gputype": "T4"}, Selection(avoid_models=frozenset({"t4"}))),
        ({"volcano.sh/vgpu-use-gpuuuid": "GPU-1"}, Selection(use_uuids=frozenset({"GPU-1"}))),
        ({"mica.dev/avoid-gpu-uuid": "GPU-1,GPU-2"}, Selection(avoid_uuids=frozenset({"GPU-1", "GPU-2"}))),
        ({"nvidia.com/vgpu-mode": "hami-core", "nvidia.com/numa-bind": "false"}, Selection()),
        ({"hami.io/node-scheduler-policy": "spread"}, Selection(node_policy="spread")),
        ({"mica.dev/node-policy": "fragmentation"}, Selection(node_policy="fragmentation")),
        ({"hami.io/gpu-scheduler-policy": "topology-aware"}, Selection(gpu_policy=("topology",))),
        ({"hami.io/gpu-scheduler-policy": "mutex,topology-aware"}, Selection(gpu_policy=("mutex", "topology"))),
        ({"hami.io/gpu-scheduler-policy": "mutex,binpack,numa"}, Selection(gpu_policy=("mutex", "binpack", "numa"))),
        ({"mica.dev/gpu-policy": " Numa , Fragmentation "}, Selection(gpu_policy=("numa", "fragmentation"))),
        (
            {"hami.io/device-scoring-weights": "slot=1,core=1,memory=3"},
            Selection(weights=Weights(slot=1, core=1, memory=3)),
        ),
        ({"mica.dev/scoring-weights": "memory=3, slot=0, core=0"}, Selection(weights=Weights(slot=0, core=0, memory=3))),
        ({"nvidia.com/numa-bind": "true"}, Selection(numa_bind=True)),
        ({"mica.dev/numa-bind": "T"}, Selection(numa_bind=True)),
        ({"mica.dev/numa-bind": "true", "nvidia.com/numa-bind": "true"}, Selection(numa_bind=True)),
    ],
)
def test_annotations_select_in_either_spelling(annotations: dict[str, str], selection: Selection) -> None:
    assert read_selection(annotations) == selection


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"mica.dev/node-policy": "random"}, "must be one of fragmentation, binpack, spread"),
        ({"mica.dev/node-policy": "topology"}, "must be one of fragmentation, binpack, spread"),
        ({"mica.dev/gpu-policy": ""}, "must be a list of fragmentation, binpack, spread, numa, mutex, topology"),
        ({"mica.dev/gpu-policy": "binpack,"}, "must be a list of"),
        ({"mica.dev/gpu-policy": "packed"}, "must be a list of"),
        ({"mica.dev/gpu-policy": "numa,binpack,numa"}, "lists numa 2 times; keep one"),
        ({"mica.dev/gpu-policy": "topology,topology-aware"}, "lists topology 2 times; keep one"),
        ({"hami.io/gpu-scheduler-policy": "spread,numa,binpack"}, "want opposite cards; keep one"),
        ({"mica.dev/gpu-policy": "topology,binpack"}, "alone chooses the whole set of cards"),
        ({"mica.dev/scoring-weights": "slot=1,core=1"}, "write slot, core and memory once each"),
        ({"mica.dev/scoring-weights": "slot=1,core=1,memory=1,slot=2"}, "write slot, core and memory once each"),
        ({"mica.dev/scoring-weights": "slot=0,core=0,memory=0"}, "of which one is positive"),
        ({"mica.dev/scoring-weights": "slot=-1,core=1,memory=1"}, "whole numbers from 0"),
        ({"mica.dev/scoring-weights": "slot=1.5,core=1,memory=1"}, "whole numbers from 0"),
        ({"hami.io/device-scoring-weights": "slot=1000001,core=1,memory=1"}, "from 0 to 1000000"),
        ({"mica.dev/numa-bind": "true", "nvidia.com/numa-bind": "false"}, "written twice with different values"),
        ({"mica.dev/use-gpu-model": " , "}, "is empty; list at least one value or remove it"),
        ({"mica.dev/use-gpu-uuid": "GPU-1", "nvidia.com/use-gpuuuid": "GPU-2"}, "written twice with different values"),
        ({"nvidia.com/gpumem": "3000"}, "amounts belong in resources.limits"),
        ({"nvidia.com/vgpu-mode": "mig"}, "is not supported"),
        ({"nvidia.com/numa-bind": "maybe"}, "must be true or false"),
        ({"mica.dev/use-gpu-model": ",".join(f"=m{i}" for i in range(257))}, "lists 257 values; list at most 256"),
        ({"nvidia.com/nouse-gpuuuid": ",".join(f"GPU-{i}" for i in range(300))}, "lists 300 values; list at most 256"),
    ],
)
def test_a_selection_that_cannot_be_honoured_is_refused(annotations: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_selection(annotations)


def test_the_canonical_form_keeps_only_selections() -> None:
    assert canonical_selection({"nvidia.com/use-gputype": "A", "own/x": "1"}) == {"mica.dev/use-gpu-model": "A"}


@pytest.mark.parametrize("values", [(0, 0, 0), (-1, 1, 1), (1, 1, 1_000_001)])
def test_weights_that_compare_nothing_are_no_weights(values: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidRequest, match="at least one positive"):
        Weights(*values)


def test_models_match_in_part_and_uuids_exactly() -> None:
    selection = read_selection(
        {"mica.dev/use-gpu-model": "a100", "mica.dev/avoid-gpu-model": "40gb", "mica.dev/use-gpu-uuid": "GPU-1"}
    )
    assert selection.accepts_model("NVIDIA A100-SXM4-80GB")
    assert not selection.accepts_model("NVIDIA A100-SXM4-40GB")
    assert not selection.accepts_model("NVIDIA H100")
    assert selection.accepts_uuid("GPU-1")
    assert not selection.accepts_uuid("GPU-12")


def _pool(name: str, *, created: str = "2026-01-01T00:00:00Z", deleted: bool = False, **labels: str) -> VGPUPool:
    meta: dict[str, Any] = {"name": name, "creationTimestamp": created}
    if deleted:
        meta["deletionTimestamp"] = created
    spec = {"nodeSelector": {"matchLabels": labels}} if labels else {}
    return VGPUPool.model_validate({"metadata": meta, "spec": spec})


@pytest.mark.parametrize(
    ("pools", "winner"),
    [
        ([], None),
        ([_pool("default")], "default"),
        ([_pool("other", gpu="h100")], None),
        ([_pool("default"), _pool("all", created="2026-02-01T00:00:00Z")], "all"),
        ([_pool("one", gpu="a100"), _pool("two", gpu="a100", zone="z")], "two"),
        ([_pool("b"), _pool("a", created="2026-02-01T00:00:00Z")], "b"),
        ([_pool("b"), _pool("a")], "a"),
        ([_pool("default", gpu="a100", zone="z"), _pool("plain")], "plain"),
        ([_pool("gone", gpu="a100", deleted=True), _pool("default")], "default"),
    ],
)
def test_a_node_belongs_to_the_most_specific_pool(pools: list[VGPUPool], winner: str | None) -> None:
    found = resolve_pool({"gpu": "a100", "zone": "z"}, pools)
    assert (found.metadata.name if found else None) == winner


@given(st.integers())
def test_the_pool_does_not_depend_on_the_order_of_the_list(seed: int) -> None:
    pools = [_pool("default"), _pool("a"), _pool("b"), _pool("c", gpu="a100"), _pool("d", gpu="a100")]
    random.Random(seed).shuffle(pools)
    found = resolve_pool({"gpu": "a100"}, pools)
    assert found is not None
    assert found.metadata.name == "c"


def test_a_model_after_an_equals_sign_matches_whole_words() -> None:
    exact = read_selection({"mica.dev/use-gpu-model": "=P4, =A100-SXM4"})
    assert [m for m in ("Tesla P4", "Tesla P40", "NVIDIA A100-SXM4-80GB", "A1000") if exact.accepts_model(m)] == [
        "Tesla P4",
        "NVIDIA A100-SXM4-80GB",
    ]


@given(words=st.text("a4 -", min_size=1, max_size=4), model=st.text("a4 -", max_size=12))
def test_whole_words_are_what_no_letter_or_digit_touches(words: str, model: str) -> None:
    touched = re.search(rf"(?<![a-z0-9]){re.escape(words)}(?![a-z0-9])", model) is None
    assert Selection(use_models=frozenset({f"={words}"})).accepts_model(model) != touched
