"""The chart's mutant: with `ignorable: true` kube-scheduler would bind slice pods without a decision."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mica_generate.files import CHART, REPOSITORY

from .test_the_scheduler_trusts_only_our_extender import test_the_extender_is_called_over_verified_tls_and_never_skipped as look

PATCH = Path(__file__).parents[1] / "mutants" / "ignorable-true.patch"


def test_ignorable_true_is_caught(helm: Path, tmp_path: Path) -> None:
    shutil.copytree(Path(REPOSITORY) / CHART, tmp_path / CHART)
    done = subprocess.run(["git", "apply", str(PATCH)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"refresh the mutant ignorable-true\n{done.stderr}"
    words = [str(helm), "template", "mica", str(tmp_path / CHART), "-n", "mica-system", "--set", "scheduler.image=unused"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    objects = [body for body in yaml.safe_load_all(text) if body]

    def find(kind: str, name: str) -> dict[str, Any]:
        (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
        return found

    with pytest.raises(AssertionError):
        look(find)
