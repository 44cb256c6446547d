"""A part of each sweep of the limiter's share benchmark, cell by cell. Virtual time, so a slow machine changes nothing."""

import pytest

from benchmarks.limiter.options import Options
from benchmarks.limiter.rig import play
from benchmarks.limiter.share import Cell, cells, judge

BANDS = {"long": 5.0, "no arbiter": 40.0}


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cell", cells(quick=True), ids=lambda cell: f"{cell.group}: {cell.name}")
def test_a_cell_is_within_its_band(cell: Cell):
    assert judge(cell, play(cell.scene, Options())).mean <= BANDS.get(cell.group, 2.0)
