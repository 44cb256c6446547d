"""`make demo`, on the box of the tests: every command of the story does what the story says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mica_box.kwok import add_kwok_nodes
from mica_demo.shell import Shell
from mica_demo.story import tell

from .mica_under_test import Platform


def test_every_command_of_the_demo_does_what_it_says(mica: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    add_kwok_nodes(mica.box.box, 3)
    tell(mica.box, Shell(mica.box.environment), tmp_path)
