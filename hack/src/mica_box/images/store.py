"""A content store for images: blobs by digest, images by what they were made of. Shared by all boxes of a user."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mica_box.errors import BoxError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CHUNK = 1 << 20
UNUSED_AFTER_S = 14 * 86400.0


@dataclass(frozen=True)
class Layer:
    """One layer: digest and size of the blob, and digest of its uncompressed tar."""

    digest: str
    size: int
    diff_id: str
    media_type: str = LAYER


@dataclass(frozen=True)
class Image:
    """An image in the store. `config` is the OCI config without what follows from the layers."""

    layers: tuple[Layer, ...]
    config: dict[str, Any]


def sha256(data: bytes) -> str:
    """OCI digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """OCI digest of a file."""
    with path.open("rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()


def canonical(value: object) -> bytes:
    """The same value gives the same bytes, so that the same content gives the same digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Store:
    """Blobs below `blobs/sha256`, and `refs/<key>`: the manifest digest of the image that was built for a key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._refs = root / "refs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._refs.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.removeprefix("sha256:")

    def put(self, data: bytes) -> str:
        """Store bytes; returns the digest."""
        digest = sha256(data)
        if not self.path(digest).exists():
            part = self.path(digest).with_suffix(f".part{os.getpid()}")
            part.write_bytes(data)
            part.rename(self.path(digest))
        return digest

    def take(self, file: Path) -> str:
        """Move a file of the same file system into the store; returns the digest."""
        digest = sha256_file(file)
        file.rename(self.path(digest))
        return digest

    def layer(self, digest: str) -> Layer:
        """An uncompressed layer that is in the store."""
        return Layer(digest, self.path(digest).stat().st_size, digest)

    def read(self, digest: str) -> Any:
        """A JSON blob."""
        return json.loads(self.path(digest).read_bytes())

    def save(self, image: Image) -> str:
        """Write config and manifest; returns the manifest's digest, the same for the same content."""
        rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]}
        # buildah refuses an image whose history does not count the layers.
        history = [{"created_by": "mica"} for _ in image.layers]
        config = canonical({**image.config, "rootfs": rootfs, "history": history})
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.put(config), "size": len(config)},
            "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in image.layers],
        }
        return self.put(canonical(manifest))

    def load(self, manifest_digest: str) -> Image:
        """Inverse of `save`."""
        manifest = self.read(manifest_digest)
        config = self.read(manifest["config"]["digest"])
        rootfs = config.pop("rootfs")
        config.pop("history", None)
        layers = tuple(
            Layer(entry["digest"], entry["size"], diff_id, entry["mediaType"])
            for entry, diff_id in zip(manifest["layers"], rootfs["diff_ids"], strict=True)
        )
        return Image(layers, config)

    def blobs_of(self, manifest_digest: str) -> list[str]:
        """Digests of everything the image consists of, the manifest last."""
        manifest = self.read(manifest_digest)
        layers = [str(entry["digest"]) for entry in manifest["layers"]]
        return [*layers, str(manifest["config"]["digest"]), manifest_digest]

    def find(self, key: str) -> str | None:
        """Manifest digest of the image built for a key, if the store still has all of it."""
        ref = self._refs / key
        if not ref.exists():
            return None
        digest = ref.read_text()
        try:
            whole = all(self.path(blob).exists() for blob in self.blobs_of(digest))
        except (OSError, ValueError, KeyError):
            return None
        if whole:
            os.utime(ref)
        return digest if whole else None

    def remember(self, key: str, manifest_digest: str) -> str:
        """Note what was built for a key; returns the digest."""
        part = self._refs / f".{key}.part"
        part.write_text(manifest_digest)
        part.rename(self._refs / key)
        return manifest_digest

    def prune(self, *, now: float | None = None) -> int:
        """Drop images unused for two weeks and blobs that no image needs; returns the number of files removed."""
        limit = (time.time() if now is None else now) - UNUSED_AFTER_S
        doomed = [ref for ref in self._refs.iterdir() if ref.stat().st_mtime < limit]
        for ref in doomed:
            ref.unlink()
        needed: set[str] = set()
        for ref in self._refs.iterdir():
            if self.find(ref.name):
                needed |= {self.path(blob).name for blob in self.blobs_of(ref.read_text())}
        garbage = [blob for blob in self._blobs.iterdir() if blob.name not in needed and blob.stat().st_mtime < limit]
        for blob in garbage:
            blob.unlink()
        return len(doomed) + len(garbage)


def require(file: Path, make: str) -> Path:
    """The file; raises saying which make target brings it."""
    if not file.is_file():
        raise BoxError(f"{file} is missing", do=f"run `make {make}` first")
    return file
