"""The runtime layers: Python dependencies from the hash-locked list, built by buildah from the shipped Dockerfile."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mica_box import host
from mica_box.errors import BoxError
from mica_box.images.archive import write_archive
from mica_box.images.store import CHUNK, Image, Store
from mica_box.paths import Paths
from mica_box.proc import CONTAINED, run
from mica_box.progress import step
from mica_box.versions import Versions

CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PASSED_ON = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "http_proxy", "https_proxy", "no_proxy")
"""Settings of the host's Python tools and proxies that the build must know too."""

GZIP_MAGIC = b"\x1f\x8b"
BUILD_BYTES = 3 * host.GIB


@dataclass(frozen=True)
class Buildah:
    """buildah with storage of its own, in a mount namespace of its own: nothing of the user's is touched or left."""

    storage: Path

    def _argv(self, *words: str | Path) -> list[str]:
        buildah = ["buildah", "--root", str(self.storage / "root"), "--runroot", str(self.storage / "run")]
        return [*CONTAINED, *buildah, "--storage-driver", "overlay", *map(str, words)]

    def __call__(self, *words: str | Path) -> str:
        env = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_CONF": str(self._settings()),
            "TMPDIR": str(self.storage),
        }
        return run(
            self._argv(*words),
            env=env,
            do="check the network (Python packages must be reachable) and the disk, then run again",
        )

    def _settings(self) -> Path:
        """Without these buildah leaves a lock file in /etc/cni on the host."""
        file = self.storage / "containers.conf"
        if not file.exists():
            self.storage.mkdir(parents=True, exist_ok=True)
            file.write_text(f'[network]\nnetwork_config_dir = "{self.storage}/net"\n')
        return file

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Storage that starts empty and is gone afterwards: no working container, layer or image is left in it."""
        shutil.rmtree(self.storage, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(self.storage)


def key(paths: Paths, base_key: str, versions: Versions) -> str:
    """Names the runtime image by lock, Dockerfile and base."""
    text = "\0".join(
        [
            (paths.hack / "requirements" / "runtime.lock").read_text(),
            _runtime_part((paths.repo / "Dockerfile").read_text()),
            base_key,
            versions.uv,
        ]
    )
    return f"runtime-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _runtime_part(dockerfile: str) -> str:
    """All stages but the last, which only copies code."""
    return dockerfile.rpartition("\nFROM ")[0]


def ensure(paths: Paths, versions: Versions, store: Store, base: tuple[str, str]) -> str:
    """Manifest digest of the runtime image; builds it when the store lacks it."""
    name = key(paths, base[0], versions)
    known = store.find(name)
    if known:
        return known
    host.require_space(paths.cache, BUILD_BYTES, "the image build")
    with step("runtime image: installing the locked dependencies (about a minute)"):
        return store.remember(name, build(paths, versions, store, base, target="runtime"))


def build(paths: Paths, versions: Versions, store: Store, base: tuple[str, str], *, target: str | None) -> str:
    """Build the Dockerfile up to stage `target` (all of it when None); manifest digest in the store."""
    buildah = Buildah(paths.cache / "buildah")
    with buildah.fresh(), tempfile.TemporaryDirectory(dir=paths.images) as scratch:
        archive = Path(scratch, "base.tar")
        write_archive(store, {"localhost/mica-base:latest": base[1]}, archive)
        base_id = buildah("pull", "--quiet", f"oci-archive:{archive}").split()[-1]
        stage = ["--target", target] if target else []
        arguments = [f"BASE={base_id}", f"UV_VERSION={versions.uv}"]
        arguments += [f"{name}={os.environ[name]}" for name in PASSED_ON if os.environ.get(name)]
        volumes = []
        if CA_BUNDLE.exists():
            arguments += [f"SSL_CERT_FILE={CA_BUNDLE}", f"PIP_CERT={CA_BUNDLE}"]
            volumes = ["--volume", f"{CA_BUNDLE}:{CA_BUNDLE}:ro"]
        built = buildah(
            *("bud", "--quiet", "--pull=never", *stage, *volumes),
            *(word for argument in arguments for word in ("--build-arg", argument)),
            *("--file", paths.repo / "Dockerfile", paths.repo),
        ).split()[-1]
        layout = Path(scratch, "layout")
        buildah("push", "--quiet", built, f"oci:{layout}:image")
        return _adopt(store, layout)


def _adopt(store: Store, layout: Path) -> str:
    """Take the only image of an OCI layout into the store; returns the manifest's digest there.

    Its layers are stored uncompressed: that makes the lowest the base's own blob, and every import cheaper.
    """
    blobs = layout / "blobs" / "sha256"

    def read(digest: str) -> Any:
        return json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())

    manifest = read(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
    config = read(manifest["config"]["digest"])
    layers = []
    for entry, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        if not store.path(diff_id).exists():
            _unpack(blobs / entry["digest"].removeprefix("sha256:"), store, diff_id)
        layers.append(store.layer(diff_id))
    return store.save(Image(tuple(layers), {key: config[key] for key in ("architecture", "os", "config")}))


def _unpack(blob: Path, store: Store, diff_id: str) -> None:
    """Store a layer without its gzip; raises when it is not the layer that the config names."""
    plain = blob.with_suffix(".tar")
    with blob.open("rb") as head:
        packed = head.read(2) == GZIP_MAGIC
    with gzip.open(blob) if packed else blob.open("rb") as source, plain.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)
    digest = store.take(plain)
    if digest != diff_id:
        raise BoxError(f"a layer that buildah wrote is {digest} and should be {diff_id}")
