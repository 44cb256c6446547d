"""`--help` of a component lists its settings; any other argument is refused, because it would do nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mica_device_plugin import __main__ as device_plugin
from mica_extender import __main__ as extender
from mica_operator import __main__ as operator
from mica_router import __main__ as router
from mica_runtime.settings import Settings
from mica_runtime.usage import answer_arguments, usage

DAEMONS = {
    "mica_device_plugin": (device_plugin.main, "MICA_NODE_NAME"),
    "mica_extender": (extender.main, "MICA_SCHEDULER_PORT="),
    "mica_operator": (operator.main, "MICA_ROUTER_ADMIN_PORT="),
    "mica_router": (router.main, "MICA_WORKERS=1"),
}


@pytest.mark.parametrize("name", sorted(DAEMONS))
def test_help_lists_the_settings_and_starts_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, setting = DAEMONS[name]
    monkeypatch.setattr("sys.argv", [name, "--help"])
    assert status_of(main) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: python -m {name}\n")
    assert f"  {setting}" in told
    assert "  MICA_LOG_LEVEL=info" in told


@pytest.mark.parametrize("name", sorted(DAEMONS))
def test_an_argument_that_would_do_nothing_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--port", "80"])
    assert status_of(DAEMONS[name][0]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("unknown arguments: --port 80. Settings are read from the environment")


def status_of(main: Callable[[], None]) -> object:
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


class Kinds(Settings):
    """What each means."""

    needed: int
    path: Path | None = None
    names: tuple[str, ...] = ("a", "b")
    share: float = 0.5


def test_defaults_are_written_as_the_environment_has_them() -> None:
    lines = usage(Kinds).splitlines()
    assert [line for line in lines if line.startswith("  ")] == [
        "  MICA_LOG_LEVEL=info",
        "  MICA_NEEDED  (required)",
        "  MICA_PATH  (not set)",
        '  MICA_NAMES=["a", "b"]',
        "  MICA_SHARE=0.5",
    ]
    assert lines[-1] == "What each means."


def test_without_arguments_the_component_starts() -> None:
    said: list[str] = []
    assert answer_arguments([], Kinds, out=said.append, err=said.append) is None
    assert said == []
