"""``MICA_PLACEMENT_KERNEL``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mica_extender.__main__ import choose_kernel
from mica_extender.placement.kernels import KernelMissing, load_native
from mica_extender.settings import ExtenderSettings
from mica_runtime.settings import SettingsError


def test_the_kernel_is_taken_where_it_is_there() -> None:
    assert choose_kernel("auto").name == "native"


def test_numpy_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MICA_")]:
        monkeypatch.delenv(name)  # as MICA_KUBE_ASSETS, which is for the tests and no setting
    monkeypatch.setenv("MICA_PLACEMENT_KERNEL", "numpy")
    assert choose_kernel(ExtenderSettings.from_environment().placement_kernel).name == "numpy"


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICA_PLACEMENT_KERNEL", "cuda")
    with pytest.raises(SettingsError, match=r"(?i)placement_kernel"):
        ExtenderSettings.from_environment()


def test_a_missing_kernel_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KernelMissing, match="make kernel"):
        load_native(tmp_path)
