"""The image that is put together in a fraction of a second against the one that the shipped Dockerfile builds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from mica_box.images import base, catalogue, runtime
from mica_box.images.archive import file_tree
from mica_box.images.store import Store
from mica_box.paths import Paths

MADE_BY_BUILDAH = {"dev", "proc", "run", "sys", "etc/hosts", "etc/resolv.conf", "run/.containerenv"}
"""Mount points and files that a build leaves in an image, whoever builds it."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_relayered_image_holds_the_files_of_the_full_build(workshop: Any, tmp_path: Path) -> None:
    paths, versions = frozen(workshop.paths, tmp_path), workshop.versions
    store, built = catalogue.build_all(paths, versions, workshop.programs)
    quick = next(image.manifest for image in built if image.name == "mica")
    full = runtime.build(paths, versions, store, base.ensure(store), target=None)
    relayered, dockerfile = (tree_of(store, manifest) for manifest in (quick, full))
    assert "opt/mica/src/mica_api/names.py" in relayered
    assert "opt/mica/lib/libmica.so" in relayered
    different = {
        name: (relayered.get(name), dockerfile.get(name))
        for name in (relayered.keys() | dockerfile.keys()) - MADE_BY_BUILDAH
        if relayered.get(name) != dockerfile.get(name)
    }
    assert different == {}
    settings = [store.load(manifest).config["config"] for manifest in (quick, full)]
    assert settings[0]["Env"] == settings[1]["Env"]
    assert settings[0]["User"] == settings[1]["User"] == catalogue.USER


def frozen(paths: Paths, folder: Path) -> Paths:
    """The same paths on a copy of the sources: an edit between the two builds must not show as a difference."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "zig", "obj")
    for name in (*(f"{component}/src" for component in catalogue.COMPONENTS), "hack", "build/shim"):
        shutil.copytree(paths.repo / name, folder / name, ignore=ignored)
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(paths.repo / name, folder / name)
    return dataclasses.replace(paths, repo=folder)


def tree_of(store: Store, manifest: str) -> dict[str, Any]:
    return file_tree(store.path(layer.digest) for layer in store.load(manifest).layers)
