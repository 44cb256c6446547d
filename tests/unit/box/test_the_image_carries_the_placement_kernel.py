"""The product's image holds the C kernel of the placement engine, and is not made without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mica_box.errors import BoxError
from mica_box.images.catalogue import COMPONENTS, KERNEL, code_files
from mica_box.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(repo=tmp_path, cache=tmp_path / "cache", assets=None)


def write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")


def make_products(paths: Paths) -> None:
    for component in COMPONENTS:
        write(paths.repo / component / "src" / f"mica_{component}" / "__init__.py")
    for name in ("libmica.so", "libmica-nvml.so", "gpu-monitor", "mica-arbiter", "sim/libcuda.so.1", "sim/libnvidia-ml.so.1"):
        write(paths.shim / name)


def test_the_library_lies_beside_its_package(paths: Paths) -> None:
    make_products(paths)
    write(paths.repo / KERNEL)
    assert "opt/mica/src/mica_extender/placement/kernel/libplacement.so" in code_files(paths)


def test_an_image_without_the_library_is_refused(paths: Paths) -> None:
    make_products(paths)
    with pytest.raises(BoxError, match="libplacement"):
        code_files(paths)
