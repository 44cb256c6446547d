"""OCI archives: images of the store on their way into containerd, and the file tree that layers make together."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mica_box.images.store import MANIFEST, Store, canonical, sha256


@dataclass(frozen=True)
class Entry:
    """A file of an image: kind, executable or not, link target, digest of the content."""

    kind: str
    executable: bool = False
    target: str = ""
    digest: str = ""


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_archive(store: Store, images: Mapping[str, str], out: Path, *, without: Collection[str] = ()) -> None:
    """Write images (reference → manifest digest) as one OCI archive, leaving out blobs that the receiver has."""
    manifests = [
        {
            "mediaType": MANIFEST,
            "digest": digest,
            "size": store.path(digest).stat().st_size,
            "annotations": {"io.containerd.image.name": reference},
        }
        for reference, digest in images.items()
    ]
    blobs = dict.fromkeys(blob for digest in images.values() for blob in store.blobs_of(digest))
    with tarfile.open(out, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", canonical({"schemaVersion": 2, "manifests": manifests}))
        for blob in blobs:
            # Manifests are what containerd starts from: it wants them in the archive even when it has them.
            if blob not in without or blob in images.values():
                tar.add(store.path(blob), f"blobs/sha256/{blob.removeprefix('sha256:')}")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle: IO[bytes] | None = tar.extractfile(member)
    return handle.read() if handle else b""


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if member.isdir():
        return Entry("dir")
    if member.issym():
        return Entry("link", target=member.linkname)
    if member.isreg() or member.islnk():
        return Entry("file", bool(member.mode & 0o100), digest=sha256(_read(tar, member)))
    return Entry("special")


def file_tree(layers: Iterable[Path]) -> dict[str, Entry]:
    """What a container would see of layers (tar files, compressed or not), lowest first."""
    seen: dict[str, Entry] = {}
    for layer in layers:
        with tarfile.open(layer) as tar:
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                folder, _, last = name.rpartition("/")
                if last == ".wh..wh..opq":
                    _forget(seen, folder)
                elif last.startswith(".wh."):
                    gone = f"{folder}/{last.removeprefix('.wh.')}".lstrip("/")
                    seen.pop(gone, None)
                    _forget(seen, gone)
                elif name and name != ".":
                    seen[name] = _entry(tar, member)
    return seen


def _forget(seen: dict[str, Entry], folder: str) -> None:
    for name in [name for name in seen if name.startswith(f"{folder}/")]:
        del seen[name]
