"""The product's image holds the C parts of the placement engine and of the router, and is not made without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mica_box.errors import BoxError
from mica_box.images.catalogue import COMPONENTS, KERNEL, RELAY, code_files
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


def test_the_libraries_lie_beside_their_packages(paths: Paths) -> None:
    make_products(paths)
    for library in (KERNEL, RELAY):
        write(paths.repo / library)
    files = code_files(paths)
    assert "opt/mica/src/mica_extender/placement/kernel/libplacement.so" in files
    assert "opt/mica/src/mica_router/hot/_native.abi3.so" in files


@pytest.mark.parametrize(("there", "missing"), [(KERNEL, "_native"), (RELAY, "libplacement")])
def test_an_image_without_one_of_them_is_refused(paths: Paths, there: str, missing: str) -> None:
    make_products(paths)
    write(paths.repo / there)
    with pytest.raises(BoxError, match=missing):
        code_files(paths)
