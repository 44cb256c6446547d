from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_api.cpu import MAX_MILLI, ContainerCPU, parse_milli, pod_milli
from mica_api.models import VGPUPool
from mica_api.sharing import CardCapacity, Sharing


@pytest.mark.parametrize(
    ("sharing", "exclusive", "capacity"),
    [
        (Sharing(10), False, CardCapacity(10, 100, 81921)),
        (Sharing(10, 150, 250), False, CardCapacity(10, 250, 122881)),
        (Sharing(10, 150, 250), True, CardCapacity(1, 100, 81921)),
        (Sharing(1), False, CardCapacity(1, 100, 81921)),
    ],
)
def test_a_card_gives_out_what_its_pool_says_and_an_exclusive_one_itself(
    sharing: Sharing, exclusive: bool, capacity: CardCapacity
) -> None:
    assert sharing.capacity(81921, exclusive=exclusive) == capacity


@pytest.mark.parametrize(
    ("text", "milli"),
    [
        *[("2", 2000), ("500m", 500), ("0.1", 100), ("1.5", 1500), (".5", 500), ("100u", 1), ("1n", 1), ("1k", 1_000_000)],
        *[("1e3", 1_000_000), ("5E-1", 500), ("1Ki", 1_024_000), ("0", 0), ("2.", 2000)],
    ],
)
def test_quantities_of_cpu_are_read_as_kubernetes_reads_them(text: str, milli: int) -> None:
    assert parse_milli(text) == milli


@pytest.mark.parametrize("text", ["", "m", "-1", "1 ", "1mm", "1e", "one", "1e999", "٣", "1" * 40])
def test_what_is_no_amount_of_cpu_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of CPU"):
        parse_milli(text)


@given(st.integers(0, 10**9), st.sampled_from(["m", ""]))
def test_whole_amounts_are_exact(number: int, suffix: str) -> None:
    assert parse_milli(f"{number}{suffix}") == number * Fraction(1000 if not suffix else 1)


def test_init_containers_count_beside_the_sidecars_before_them() -> None:
    inits = [ContainerCPU(700, sidecar=False), ContainerCPU(200, sidecar=True), ContainerCPU(600, sidecar=False)]
    assert pod_milli(apps=[100, 100], inits=inits) == 800
    assert pod_milli(apps=[500, 300], inits=inits) == 1000
    assert pod_milli(apps=[500, 300], inits=inits, overhead=10) == 1010


def test_what_is_written_for_the_pod_itself_holds_for_all_its_containers() -> None:
    assert pod_milli(apps=[500, 300], inits=[ContainerCPU(900, sidecar=True)], overhead=10, whole=400) == 410


@pytest.mark.parametrize("text", ["9E", "1e90", "999999999999Ei"])
def test_absurd_amounts_of_cpu_fit_into_64_bits(text: str) -> None:
    assert parse_milli(text) == MAX_MILLI


def test_a_pool_of_which_nothing_is_said_has_the_defaults() -> None:
    spec = VGPUPool.model_validate({"metadata": {"name": "p"}}).spec.to_wire()
    assert spec == {
        "nodeSelector": {},
        "maxSlicesPerGPU": 10,
        "memoryOvercommitPercent": 100,
        "coresOvercommitPercent": 100,
        "mode": "Shared",
        "placement": {"node": "Fragmentation", "gpu": ["Fragmentation"]},
        "compute": {"policy": "Strict", "priority": "Normal", "highestPriority": "Normal", "weight": 100, "maxWeight": 100},
    }
