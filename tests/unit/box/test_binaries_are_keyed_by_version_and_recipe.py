from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from mica_box import binaries
from mica_box.golang import parse_go_version
from mica_box.paths import Paths, paths_from
from mica_box.progress import remaining_s
from mica_box.versions import Versions, load_versions, products


@pytest.fixture
def versions(repository: Path) -> Versions:
    return load_versions(repository / "hack" / "versions.toml")


@pytest.fixture
def paths(repository: Path, tmp_path: Path) -> Paths:
    return Paths(repo=repository, cache=tmp_path / "cache", assets=None)


def script(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_every_wrapper_module_requires_the_pinned_version(repository: Path, versions: Versions) -> None:
    for product in products(versions):
        module = (repository / "hack" / "kube" / product.name / "go.mod").read_text()
        assert re.search(rf"{re.escape(product.module)} v{re.escape(product.version)}\b", module), product.name


def test_every_staging_library_is_replaced_by_the_same_release(repository: Path, versions: Versions) -> None:
    module = (repository / "hack" / "kube" / "kubernetes" / "go.mod").read_text()
    replaced = re.findall(r"^\tk8s\.io/\S+ => (\S+)(?: v(\S+))?$", module, re.MULTILINE)
    assert len(replaced) > 25
    assert {version for target, version in replaced if not target.startswith("./")} == {versions.staging}


def test_everything_is_missing_from_an_empty_cache(paths: Paths, versions: Versions) -> None:
    found, missing = binaries.locate(paths, versions)
    assert found == {}
    assert {"kubelet", "etcd", "containerd-shim-runc-v2", "helm", "kwok"} <= {m.binary.name for m in missing}


def test_a_program_in_the_cache_is_found_and_the_rest_is_built(paths: Paths, versions: Versions) -> None:
    _, missing = binaries.locate(paths, versions)
    etcd = next(m for m in missing if m.binary.name == "etcd")
    script(etcd.target, "etcd")
    found, missing = binaries.locate(paths, versions)
    assert found == {"etcd": etcd.target}
    assert "etcd" not in {m.binary.name for m in missing}


def test_assets_are_used_only_when_they_are_of_the_pinned_version(paths: Paths, versions: Versions, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    script(assets / "etcd", f"etcd Version: {versions.etcd}")
    script(assets / "kubelet", "Kubernetes v1.2.3")
    script(assets / "helm", f"v{versions.helm}+gabcdef")
    found, _ = binaries.locate(dataclasses.replace(paths, assets=assets), versions)
    assert found == {"etcd": assets / "etcd", "helm": assets / "helm"}


def test_the_cache_key_changes_with_flags_module_and_version(repository: Path, versions: Versions, tmp_path: Path) -> None:
    module = tmp_path / "module"
    shutil.copytree(repository / "hack" / "kube" / "etcd", module)
    etcd = next(p for p in products(versions) if p.name == "etcd")
    keys = {binaries.recipe_key(etcd, module)}
    keys.add(binaries.recipe_key(dataclasses.replace(etcd, version="9.9.9"), module))
    keys.add(binaries.recipe_key(dataclasses.replace(etcd, ldflags="-X a=b"), module))
    (module / "go.sum").write_text("other")
    keys.add(binaries.recipe_key(etcd, module))
    assert len(keys) == 4


def test_kubernetes_programs_are_stamped_with_their_version(versions: Versions) -> None:
    kubernetes = products(versions)[0]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        assert f"-X {package}.gitVersion=v{versions.kubernetes}" in kubernetes.ldflags


@pytest.mark.parametrize(
    ("text", "version"),
    [("go version go1.26.8 linux/amd64", (1, 26)), ("go version go1.27rc1 linux/amd64", (1, 27)), ("no", None)],
)
def test_the_version_of_go_is_understood(text: str, version: tuple[int, int] | None) -> None:
    assert parse_go_version(text) == version


def test_the_time_still_expected_follows_from_the_time_taken() -> None:
    assert remaining_s(0, 10, 5.0) is None
    assert remaining_s(5, 10, 20.0) == 20.0
    assert remaining_s(10, 10, 20.0) == 0.0


def test_caches_and_assets_are_where_the_environment_says() -> None:
    assert paths_from({"HOME": "/home/u"}).cache == Path("/home/u/.cache/mica")
    said = paths_from({"HOME": "/home/u", "MICA_CACHE": "/c", "MICA_KUBE_ASSETS": "/a"})
    assert (said.cache, said.assets) == (Path("/c"), Path("/a"))
