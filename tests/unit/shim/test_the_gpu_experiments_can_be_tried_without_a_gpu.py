"""The experiments for a real GPU: without one they say so, and their driver-API parts can be tried on the simulated card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._command import CannotMeasure
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.facts import hooked_names
from benchmarks.gpu.kernel import PTX
from benchmarks.gpu.options import Options, dry
from benchmarks.gpu.overhead import torch_missing

ROOT = Path(__file__).parents[3]


def experiments(folder, *words):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    done = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.run(done, env=env, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_without_a_gpu_nothing_is_measured_and_it_says_why():
    with pytest.raises(CannotMeasure, match=r"no GPU: no driver\. `--simulated`"):
        command.options_for(simulated=False, missing=lambda: "no driver")
    assert command.options_for(simulated=False, missing=lambda: "").simulated is False


def test_a_dry_run_writes_its_figures_into_a_file_of_their_own(shim, tmp_path):
    done = experiments(tmp_path, "--simulated", "facts", "residual")
    assert done.returncode == 0, done.stderr
    assert "residual skipped: the simulated card's memory has no content" in done.stderr
    assert [path.name for path in (tmp_path / "build" / "bench").iterdir()] == ["gpu-simulated.json"]
    rows = {row["figure"]: row for row in json.loads((tmp_path / "build" / "bench" / "gpu-simulated.json").read_text())}
    assert rows["pointers that cuGetProcAddress and dlsym disagree on"]["value"] == 0
    assert rows["memory of a bare context"]["value"] >= 0
    assert all("simulated" in row["how"] for row in rows.values())


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.read_arguments(["speed"])
    assert "there are: facts, memory" in capsys.readouterr().err


def test_pytorch_is_missed_in_words():
    assert "simulated driver" in torch_missing(dry())


def test_hooked_names_are_those_that_programs_ask_for():
    names = hooked_names()
    assert {"cuMemAlloc", "cuLaunchKernel", "cuMemAllocAsync", "cuGetProcAddress"} <= set(names)
    assert not [name for name in names if name.endswith(("_v2", "_ptsz"))]


def test_no_part_may_take_longer_than_ten_minutes():
    begun = Options().begun
    assert Options(begun=begun).time_for(500)
    assert not Options(begun=begun - 300).time_for(300)


def test_the_kernel_is_one_text_that_a_driver_can_read():
    text = PTX.decode()
    assert text.endswith("\0")
    assert text.count(".entry burn(") == 1
    assert text.count("{") == text.count("}") == 1
