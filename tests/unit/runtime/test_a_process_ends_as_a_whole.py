from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mica_runtime import __version__
from mica_runtime.service import PartEnded, run_parts

_PROGRAM = """
import asyncio, sys
from mica_runtime import service
from mica_runtime.settings import SettingsError

async def waits():
    print("up", flush=True)
    await asyncio.Event().wait()

async def fails():
    raise RuntimeError("broken part")

async def returns():
    pass

async def start():
    if sys.argv[1] == "settings":
        raise SettingsError("MICA_X: wrong")
    await service.run_parts(waits(), *([] if sys.argv[1] == "waits" else [globals()[sys.argv[1]]()]))

service.main("test", start)
"""


def _process(which: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _PROGRAM, which], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_and_soon(number: int) -> None:
    with _process("waits") as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert (started["msg"], started["version"]) == ("component started", __version__)
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        stopping = json.loads(process.stdout.readline())
        assert (stopping["msg"], stopping["signal"]) == ("stopping", signal.Signals(number).name)


def test_the_version_in_the_code_is_that_of_the_distribution() -> None:
    wanted = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == wanted


def test_a_librarys_log_record_is_one_line_without_colours() -> None:
    program = (
        "import logging\n"
        "from mica_runtime.logging import configure\n"
        "configure(component='test', level='info')\n"
        "logging.getLogger('uvicorn.error').info('Started', extra={'color_message': '\\x1b[36mStarted\\x1b[0m', 'port': 1})\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    logged = json.loads(output)
    assert (logged["msg"], logged["port"]) == ("Started", 1)
    assert "color_message" not in logged


@pytest.mark.parametrize(
    ("which", "code", "words"), [("fails", 1, "broken part"), ("returns", 1, "PartEnded"), ("settings", 2, "MICA_X: wrong")]
)
def test_a_half_running_process_ends_with_its_reason_as_json(which: str, code: int, words: str) -> None:
    with _process(which) as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == code
    logged: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert logged
    assert any(words in json.dumps(entry) for entry in logged)
    assert {"ts", "level", "logger", "msg", "component"} <= logged[-1].keys()


async def test_the_other_parts_are_cancelled_when_one_fails() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_parts(waits(), fails())
    assert ended == ["waits"]


async def test_a_part_that_returns_is_an_error() -> None:
    async def returns() -> None:
        pass

    with pytest.raises(PartEnded, match="returns"):
        await run_parts(returns())


@pytest.mark.looptime
async def test_a_part_that_goes_on_when_it_should_end_keeps_the_process_for_two_seconds_at_most() -> None:
    """By the loop's clock, which is made up."""

    async def clings() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(60)

    async def fails() -> None:
        raise ZeroDivisionError

    began = asyncio.get_running_loop().time()
    with pytest.raises(ZeroDivisionError):
        await run_parts(clings(), fails())
    assert 0 < asyncio.get_running_loop().time() - began <= 2
