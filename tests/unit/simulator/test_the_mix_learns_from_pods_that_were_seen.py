"""Tables of the mix: what they say, when they change, what bounds them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement.dream import LEVELS, Dream
from mica_extender.placement.fragmentation import card_loss, free_share, waste
from mica_extender.placement.mix import MAX_CLASSES, MICRO, CardKind, Mix, Supply
from mica_extender.placement.model import Card, Shape

KIND = CardKind(10_000, 10_000)
SUPPLY = Supply({"T4": KIND, "A100": KIND}, {"T4": 100, "A100": 20}, 1_200_000, 120)


def pod(mib: int = 5000, cores: int = 0, number: int = 1, cpu: int = 4000, *models: str) -> Shape:
    return Shape(PodRequest((ContainerRequest("c", number, cores, mib),)), Selection(use_models=frozenset(models)), cpu)


def test_what_fits_nothing_that_comes_is_waste() -> None:
    dream = Dream()
    dream.go_on([(810, 10)])
    assert dream.waste[190] > 180_000
    assert dream.waste[LEVELS] > 180_000
    dream.go_on([(500, 10)])
    for _ in range(10):
        dream.go_on([(500, 10)])
    assert dream.waste[500] < 20_000


def test_a_filler_that_is_frequent_makes_a_gap_useful() -> None:
    rare, frequent = Dream(), Dream()
    for _ in range(4):
        rare.go_on([(810, 100), (190, 1)])
        frequent.go_on([(810, 100), (190, 120)])
    assert frequent.waste[190] < rare.waste[190] / 2


@settings(max_examples=6)
@given(classes=st.lists(st.tuples(st.integers(1, LEVELS), st.integers(1, 50)), min_size=1, max_size=6))
def test_waste_is_between_nothing_and_all_of_it(classes: list[tuple[int, int]]) -> None:
    dream = Dream()
    dream.go_on(classes)
    assert len(dream.waste) == LEVELS + 1
    assert all(0 <= value <= level * (MICRO // LEVELS) for level, value in enumerate(dream.waste))


def test_equal_pods_give_equal_tables() -> None:
    one, two = Mix(), Mix()
    for shape in (pod(), pod(8100), pod(1900), pod()):
        one.observe(shape)
        two.observe(shape)
    assert one.current(SUPPLY) == two.current(SUPPLY)


def test_tables_change_at_epochs_only() -> None:
    mix = Mix()
    epochs = []
    for _ in range(400):
        mix.observe(pod())
        epochs.append(mix.current(SUPPLY).epoch)
    changes = [at + 1 for at in range(1, 400) if epochs[at] != epochs[at - 1]]
    assert epochs[0] == 1
    assert len(changes) < 25
    assert all(later - earlier >= earlier // 4 for earlier, later in pairwise(changes))


def test_pods_without_slices_teach_nothing() -> None:
    mix = Mix()
    mix.observe(Shape(PodRequest((ContainerRequest("c"),)), cpu_milli=32_000))
    assert mix.current(SUPPLY).epoch == 0


def test_classes_are_bounded_and_the_rarest_goes() -> None:
    mix = Mix()
    for _ in range(3):
        mix.observe(pod(7777))
    for mib in range(1, MAX_CLASSES + 50):
        mix.observe(pod(mib))
    assert len(mix._counts) == MAX_CLASSES
    assert max(mix._counts.values()) == 3


def test_demand_bound_to_a_model_makes_it_scarce() -> None:
    mix = Mix()
    mix.observe(pod(10_000, 100, 1, 4000, "a100"))
    mix.observe(pod(10_000, 100))
    tables = mix.current(SUPPLY)
    # Half of the demand is bound to a sixth of the cards: three times their part, at 0.2 of a GPU.
    assert tables.scarcity == {"T4": 0, "A100": 600_000}


def test_cpu_counts_only_where_there_is_enough_of_it() -> None:
    mix = Mix()
    mix.observe(pod(10_000, 100, 1, 9000))
    assert mix.current(SUPPLY).fed > 0
    assert mix.current(replace(SUPPLY, cpu_milli=1_000_000)).fed == 0


def test_a_card_that_takes_no_further_slice_wastes_all_that_is_free() -> None:
    mix = Mix()
    mix.observe(pod(5000))
    tables = mix.current(SUPPLY)
    card = Card("u", 0, "T4", 10_000)
    taken = card.with_slice(memory_mib=5000, cores=0)
    assert free_share(taken) == 500
    assert waste(taken, tables=tables, max_slices=1) == 500_000
    assert waste(taken, tables=tables, max_slices=2) < 100_000
    assert card_loss(card, taken, tables=tables, max_slices=1) > card_loss(card, taken, tables=tables, max_slices=2)


def test_a_sick_or_cordoned_card_has_nothing_free() -> None:
    assert free_share(Card("u", 0, "T4", 10_000, healthy=False)) == 0
    assert free_share(Card("u", 0, "T4", 10_000, cordoned=True)) == 0
