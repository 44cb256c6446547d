from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_box.errors import BoxError
from mica_box.images.archive import file_tree, write_archive
from mica_box.images.base import codename, sources
from mica_box.images.layers import make_layer, tree
from mica_box.images.store import UNUSED_AFTER_S, Image, Store, require, sha256


def write(folder: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def members(layer: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return {member.name: member for member in tar}


def test_times_owners_and_umask_of_the_sources_do_not_show(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"a/x.py": "1", "a/b/y.py": "2"})
    two = write(tmp_path / "two", {"a/b/y.py": "2", "a/x.py": "1"})
    os.utime(two / "a" / "x.py", (1, 1))
    (two / "a" / "x.py").chmod(0o600)
    assert make_layer(tree(one, "opt/src")) == make_layer(tree(two, "opt/src"))


def test_a_changed_byte_or_executable_bit_changes_the_layer(tmp_path: Path) -> None:
    source = write(tmp_path, {"a/x": "1"})
    before = make_layer(tree(source, "opt"))
    (source / "a" / "x").chmod(0o755)
    executable = make_layer(tree(source, "opt"))
    (source / "a" / "x").write_text("2")
    assert len({before, executable, make_layer(tree(source, "opt"))}) == 3


def test_compiled_python_is_left_out(tmp_path: Path) -> None:
    source = write(tmp_path, {"a/x.py": "1", "a/__pycache__/x.cpython-311.pyc": "c", "a/old.pyc": "c"})
    assert set(tree(source, "opt")) == {"opt/a/x.py"}


def test_every_folder_is_listed_before_its_files_and_owned_by_root(tmp_path: Path) -> None:
    layer = members(make_layer(tree(write(tmp_path, {"p/q/r.py": "1"}), "opt/mica/src")))
    assert list(layer) == ["opt", "opt/mica", "opt/mica/src", "opt/mica/src/p", "opt/mica/src/p/q", "opt/mica/src/p/q/r.py"]
    assert {(m.uid, m.gid, m.mtime) for m in layer.values()} == {(0, 0, 0)}


names = st.text("abc", min_size=1, max_size=3)


@settings(max_examples=30)
@given(st.dictionaries(names, st.binary(max_size=20), min_size=1, max_size=5), st.randoms())
def test_the_order_in_which_files_are_named_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], random: object
) -> None:
    folder = tmp_path_factory.mktemp("order")
    for name, data in content.items():
        (folder / name).write_bytes(data)
    files = {f"opt/{name}": folder / name for name in content}
    assert make_layer(files) == make_layer(dict(reversed(files.items())))


def stored(store: Store, *layers: bytes) -> str:
    image = Image(tuple(store.layer(store.put(layer)) for layer in layers), {"os": "linux", "config": {"Env": ["A=1"]}})
    return store.save(image)


def test_the_same_content_is_the_same_image_in_any_store(tmp_path: Path) -> None:
    assert stored(Store(tmp_path / "a"), b"1", b"2") == stored(Store(tmp_path / "b"), b"1", b"2")
    assert stored(Store(tmp_path / "a"), b"1", b"2") != stored(Store(tmp_path / "a"), b"2", b"1")


def test_an_image_that_lost_a_blob_is_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.remember("key", stored(store, b"1"))
    assert store.find("key") == digest
    store.path(sha256(b"1")).unlink()
    assert store.find("key") is None


def test_an_image_read_back_is_the_image_that_was_saved(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = stored(store, b"1", b"2")
    assert store.save(store.load(digest)) == digest


def test_pruning_drops_what_was_not_used_for_two_weeks_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = store.remember("kept", stored(store, b"shared", b"kept"))
    store.remember("old", stored(store, b"shared", b"old"))
    os.utime(tmp_path / "refs" / "old", (1, 1))
    for blob in (tmp_path / "blobs" / "sha256").iterdir():
        os.utime(blob, (1, 1))
    store.prune(now=2 * UNUSED_AFTER_S)
    assert store.find("kept") == kept
    assert store.find("old") is None
    assert not store.path(sha256(b"old")).exists()


def test_an_archive_leaves_out_the_layers_that_the_receiver_has(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = stored(store, b"below", b"above")
    write_archive(store, {"localhost/x:1": digest}, tmp_path / "out.tar", without=[sha256(b"below")])
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = tar.getnames()
    assert f"blobs/sha256/{sha256(b'above')[7:]}" in names
    assert f"blobs/sha256/{sha256(b'below')[7:]}" not in names
    assert f"blobs/sha256/{digest[7:]}" in names


def tar_of(path: Path, content: dict[str, str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, text in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_a_file_tree_shows_the_upper_layer_and_honours_deletions(tmp_path: Path) -> None:
    lower = tar_of(tmp_path / "1.tar", {"./a/x": "1", "a/y": "1", "b/z": "1", "c/w": "1"})
    upper = tar_of(tmp_path / "2.tar", {"a/x": "2", "a/.wh.y": "", "b/.wh..wh..opq": "", ".wh.c": ""})
    seen = file_tree([lower, upper])
    assert set(seen) == {"a/x"}
    assert seen["a/x"].digest == sha256(b"2")


def test_a_missing_product_of_the_shim_names_the_target_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(BoxError) as refused:
        require(tmp_path / "libmica.so", "shim")
    assert "make shim" in refused.value.do


def test_only_the_hosts_own_debian_sources_are_used_for_the_base() -> None:
    listed = "\n".join(
        [
            "http://mirror.example/debian/ bookworm main",
            "http://mirror.example/debian/ bookworm main",
            "http://mirror.example/debian-security/ bookworm-security main",
            "http://mirror.example/debian/ bookworm contrib",
            "http://other.example/node nodistro main",
            "http://other.example/sdk cloud-sdk-bookworm main",
        ]
    )
    assert sources(listed, "bookworm") == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    ]
    assert codename("ID=debian\nVERSION_CODENAME=trixie\n") == "trixie"
    assert codename("ID=debian\n") == "stable"
