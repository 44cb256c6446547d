"""The unit of systemd names commands and options that `mica` has, and leaves streams the time that the router gives them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from mica_cli.__main__ import app
from mica_router.settings import RouterSettings

UNIT = (Path(__file__).parents[3] / "examples" / "stand-alone" / "mica-router.service").read_text()


@pytest.mark.parametrize("line", re.findall(r"^Exec\w+=(.*)$", UNIT, re.MULTILINE))
def test_its_commands_are_understood(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program.endswith("/mica")
    command = get_command(app).commands[name]
    assert command.make_context(name, list(arguments)).params["file" if name == "check-config" else "config"] == Path(
        "/etc/mica/router.yaml"
    )


def test_it_waits_longer_than_the_router_drains() -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > RouterSettings.model_fields["drain_timeout"].default + 1.5


def test_it_is_installed_with_what_its_commands_need() -> None:
    assert re.search(r"pip install \S+\[cli,router\]", UNIT)
    assert not re.search(r"pip install mica\b(?!-)", UNIT)
