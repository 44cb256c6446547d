"""What a pod may choose of the compute, what it gets, and how it is told what to change."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api import names
from mica_api.compute import (
    COMPUTE_POLICIES,
    MAX_WEIGHT,
    NO_CHOICE,
    PRIORITIES,
    Compute,
    ComputeChoice,
    ComputeRules,
    check_allowed,
    check_effect,
    compute_annotations,
    rank,
    read_compute,
)
from mica_api.dialects import priority_class
from mica_api.models.vgpu_pool import PoolCompute
from mica_api.request import ContainerRequest, InvalidRequest, PodRequest

weights = st.integers(1, MAX_WEIGHT)
choices = st.builds(
    ComputeChoice,
    st.sampled_from([None, *COMPUTE_POLICIES]),
    st.sampled_from([None, *PRIORITIES]),
    st.one_of(st.none(), weights),
)
pools = st.builds(
    ComputeRules,
    st.builds(Compute, st.sampled_from(COMPUTE_POLICIES), st.sampled_from(PRIORITIES), weights),
    st.sampled_from(PRIORITIES),
    weights,
)


@given(choices)
def test_a_choice_survives_its_annotations(choice: ComputeChoice) -> None:
    assert read_compute(compute_annotations(choice)) == choice


@given(choices, pools)
def test_nothing_passes_what_the_pool_allows_and_what_it_allows_is_what_is_got(choice: ComputeChoice, pool: ComputeRules) -> None:
    got = pool.resolve(choice)
    assert rank(got.priority) <= rank(pool.highest_priority)
    assert got.weight <= pool.max_weight
    assert got.policy == (choice.policy or pool.default.policy)
    if pool.excess(choice) is None:
        assert choice.priority in (None, got.priority)
        assert choice.weight in (None, got.weight)
    else:
        assert (choice.priority, choice.weight) != (got.priority, got.weight)


def test_a_pool_of_which_nothing_is_said_gives_what_the_limiter_has_by_itself() -> None:
    assert PoolCompute().rules().resolve(NO_CHOICE) == Compute("strict", "normal", 100)


def test_a_pools_words_are_read_in_the_spelling_of_kubernetes() -> None:
    pool = PoolCompute.model_validate(
        {"policy": "Conserving", "priority": "Low", "highestPriority": "High", "weight": 50, "maxWeight": 400}
    )
    assert pool.rules() == ComputeRules(Compute("conserving", "low", 50), "high", 400)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (names.ANNOTATION_COMPUTE_POLICY, "elastic", "'elastic'; it must be one of strict, conserving"),
        (names.ANNOTATION_COMPUTE_PRIORITY, "0", "'0'; it must be one of low, normal, high"),
        (names.ANNOTATION_COMPUTE_WEIGHT, "0", "'0'; write a whole number from 1 to 10000"),
        (names.ANNOTATION_COMPUTE_WEIGHT, "10001", "a whole number from 1 to 10000"),
        (names.ANNOTATION_COMPUTE_WEIGHT, "1.5", "a whole number from 1 to 10000"),
        (names.ANNOTATION_COMPUTE_WEIGHT, "٣", "a whole number from 1 to 10000"),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_what_to_write(key: str, value: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refusal:
        read_compute({key: value})
    assert key in str(refusal.value)


def pod(*cores: int) -> PodRequest:
    return PodRequest(tuple(ContainerRequest(f"c{i}", number=1, cores=c, memory_mib=1) for i, c in enumerate(cores)))


@pytest.mark.parametrize(
    ("choice", "cores", "words"),
    [
        (ComputeChoice(priority="low"), (100,), "has its GPUs alone"),
        (ComputeChoice(weight=10), (100, 100), "has its GPUs alone"),
        (ComputeChoice(policy="conserving"), (0,), "no slice that shares its GPUs has a cap"),
        (ComputeChoice(policy="strict"), (0, 100), "no slice that shares its GPUs has a cap"),
        (ComputeChoice(weight=10), (20,), "remove one of the two"),
    ],
)
def test_a_choice_that_decides_nothing_is_refused(choice: ComputeChoice, cores: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        check_effect(pod(*cores), choice)


@pytest.mark.parametrize(
    ("choice", "cores"),
    [
        (ComputeChoice(priority="low"), (0,)),
        (ComputeChoice(priority="low"), (100, 20)),
        (ComputeChoice(policy="conserving"), (0, 20)),
        (ComputeChoice(weight=10), (0, 20)),
        (NO_CHOICE, (100,)),
    ],
)
def test_a_choice_that_decides_for_one_container_is_taken(choice: ComputeChoice, cores: tuple[int, ...]) -> None:
    check_effect(pod(*cores), choice)


def test_a_choice_needs_one_pool_that_allows_all_of_it() -> None:
    high, heavy = ComputeRules(highest_priority="high"), ComputeRules(max_weight=500)
    for priority, weight in product((None, "high"), (None, 500)):
        wanted = ComputeChoice(priority=priority, weight=weight)
        if priority and weight:
            with pytest.raises(InvalidRequest, match="compute-weight is 500, the greatest is 100; write less, or have"):
                check_allowed(wanted, [heavy, high])
        else:
            check_allowed(wanted, [heavy, high])
    check_allowed(ComputeChoice(priority="high"), [])


@pytest.mark.parametrize(("value", "priority"), [("0", "high"), ("1", "low")])
def test_hamis_priorities_are_classes(value: str, priority: str) -> None:
    assert priority_class("main", {"nvidia.com/gpu": "1", "nvidia.com/priority": value}) == priority
    assert priority_class("main", {"nvidia.com/gpu": "1"}) is None


def test_another_number_of_hamis_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"nvidia.com/priority is 2; write 0 \(high\) or 1 \(low\)"):
        priority_class("main", {"nvidia.com/priority": "2"})
