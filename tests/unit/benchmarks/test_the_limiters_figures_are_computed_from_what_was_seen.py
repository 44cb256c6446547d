"""The limiter's benchmark: what its figures are computed from, without running it."""

import struct

import pytest

from benchmarks._command import CannotMeasure
from benchmarks.limiter import __main__ as command
from benchmarks.limiter import counts
from benchmarks.limiter.memory import CAP, Reading
from benchmarks.limiter.options import Options


@pytest.mark.parametrize(
    ("shown", "physical", "error"),
    [(5, 5, 0), (5, 9, 4), (9, 5, 4), (CAP, CAP, 0), (CAP + 7, CAP + 7, 7), (CAP, CAP + 3, 3)],
)
def test_a_charge_that_is_wrong_either_way_or_passes_the_cap_is_an_error(shown, physical, error):
    assert Reading(shown=shown, physical=physical, wrong=()).error == error


def test_waiting_is_read_from_the_region(tmp_path):
    assert counts.throttled(tmp_path) == 0
    region = bytearray(1_069_056)
    struct.pack_into("<Q", region, 4096 + 208, 12345)
    (tmp_path / "one.region").write_bytes(region)
    assert counts.throttled(tmp_path) == 12345


def test_a_missing_tool_is_named_with_the_package_that_brings_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotMeasure, match="apt-get install valgrind"):
        counts.valgrind()


def test_a_limiter_that_was_not_built_is_named(tmp_path):
    with pytest.raises(CannotMeasure, match="make shim"):
        Options(build=tmp_path).file("libmica.so")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.read_arguments(["speed"])
    assert "there are: " in capsys.readouterr().err


def test_without_words_all_parts_are_measured():
    parts, options = command.read_arguments([])
    assert {"instructions", "memory", "preload"} <= set(parts)
    assert not options.quick
