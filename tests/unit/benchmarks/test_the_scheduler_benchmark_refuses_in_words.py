"""The command line of the scheduler benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._command import CannotMeasure
from benchmarks.scheduler.__main__ import PARTS, read_arguments


def test_without_a_part_all_parts_run() -> None:
    assert read_arguments([], {})[0] == PARTS
    assert read_arguments(["packing", "speed"], {})[0] == ("packing", "speed")


def test_an_unknown_part_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_arguments(["sped"], {})
    assert ended.value.code == 2
    assert "speed, topology, packing, throughput" in capsys.readouterr().err


def test_the_trace_comes_from_the_argument_or_else_the_environment(tmp_path: Path) -> None:
    assert read_arguments([], {"MICA_OPENB": str(tmp_path)})[1].trace() == tmp_path
    inner = tmp_path / "inner"
    inner.mkdir()
    assert read_arguments(["--openb", str(inner)], {"MICA_OPENB": str(tmp_path)})[1].trace() == inner


@pytest.mark.parametrize("environment", [{}, {"MICA_OPENB": ""}])
def test_a_missing_trace_is_refused_with_what_to_do(environment: dict[str, str]) -> None:
    with pytest.raises(CannotMeasure, match=r"--openb DIR or MICA_OPENB=DIR"):
        read_arguments([], environment)[1].trace()


def test_a_trace_that_is_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="nowhere"):
        read_arguments(["--openb", str(tmp_path / "nowhere")], {})[1].trace()
