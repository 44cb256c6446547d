"""The C kernel's dreams end in the tables of ``dream.py``, whatever pods come and however long it goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_extender.placement.dream import LEVELS, Dream
from mica_extender.placement.kernels import NumpyKernel, load_native
from mica_extender.placement.native_dream import NativeDream, dreams_by

NATIVE = load_native()
CLASSES = st.lists(st.tuples(st.integers(1, LEVELS), st.integers(1, 2**20)), max_size=12)


@settings(max_examples=25)
@given(epochs=st.lists(CLASSES, min_size=1, max_size=3))
def test_equal_pods_give_equal_tables_in_c_and_in_python(epochs: list[list[tuple[int, int]]]) -> None:
    ours, theirs = NativeDream(NATIVE.library), Dream()
    for classes in epochs:
        ours.go_on(classes)
        theirs.go_on(classes)
        assert ours.waste == theirs.waste
        assert ours.dreamt and theirs.dreamt


@pytest.mark.parametrize("classes", [[(1, 1)], [(LEVELS, 1)], [(1, 999), (LEVELS, 1)], [(333, 2**40), (500, 1)]])
def test_the_ends_of_what_can_come_are_alike(classes: list[tuple[int, int]]) -> None:
    ours, theirs = NativeDream(NATIVE.library), Dream()
    for _ in range(2):
        ours.go_on(classes)
        theirs.go_on(classes)
    assert ours.waste == theirs.waste


def test_a_kernel_dreams_in_its_own_language() -> None:
    assert isinstance(dreams_by(NATIVE)(), NativeDream)
    assert isinstance(dreams_by(NumpyKernel())(), Dream)
