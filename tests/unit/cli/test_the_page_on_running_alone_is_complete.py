"""`docs/stand-alone.md` lists the keys that there are, and its routes file is one."""

from __future__ import annotations

import re
from pathlib import Path

from mica_cli.standalone.keys import described
from mica_router.sources.routes_file import parse_routes_file

PAGE = (Path(__file__).parents[3] / "docs" / "stand-alone.md").read_text()


def test_every_key_is_listed_as_the_program_describes_it() -> None:
    rows = [f"| `{key}` | {f'`{default}`' if default else ''} | {text} |" for key, default, text in described()]
    section = PAGE.partition("## Keys")[2].partition("## Routes files")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows


def test_the_routes_file_of_the_page_can_be_used() -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    (service,) = parse_routes_file(example[1], created=0)
    assert [engine.tier for engine in service.engines] == ["gpu", "cpu"]
