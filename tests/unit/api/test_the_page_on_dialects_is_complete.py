"""The page that users of other systems read names every resource and every annotation that the code knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mica_api.allocation import GPUShare
from mica_api.dialects import DIALECTS, FLEXAI, HAMI, VOLCANO
from mica_api.hami import Bound, read_back

PAGE = (Path(__file__).parents[3] / "docs" / "dialects.md").read_text()
WRITTEN = read_back(Bound("n", ((GPUShare("GPU-a", 1, 1),),), 0), frozenset({HAMI.name, VOLCANO.name, FLEXAI.name}))


@pytest.mark.parametrize("name", [*(r for d in DIALECTS for r in d.resources), *WRITTEN])
def test_every_name_is_on_the_page(name: str) -> None:
    assert f"`{name}" in PAGE


def test_the_page_promises_no_annotation_that_is_not_written() -> None:
    rows = [line for line in PAGE.partition("## What is read back")[2].splitlines() if line.startswith("| ")]
    listed = {cell.strip("`") for row in rows[1:] for cell in row.split("|")[2].strip().split(", ")}
    assert listed - {"---"} == set(WRITTEN)
