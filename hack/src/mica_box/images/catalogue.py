"""The images of the product and its tests: what each is made of, and their import into a box.

| name | made of |
|---|---|
| `mica` | runtime image (Dockerfile, hash-locked dependencies) and the code as last layer |
| `kube-scheduler` | the one static program |
| `pause` | one static C program |
| `mica-demo-engine` | base, the engine's locked dependencies, hack/demo_engine |
| `mica-test-gpu` | base and the driver-API programs of vgpu_shim/tools |
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mica_box import binaries, host
from mica_box.box import Box
from mica_box.images import base, runtime
from mica_box.images.archive import write_archive
from mica_box.images.layers import make_layer, tree
from mica_box.images.store import Image, Store, require
from mica_box.locks import locked
from mica_box.paths import Paths
from mica_box.proc import run
from mica_box.progress import step
from mica_box.versions import Versions

COMPONENTS = ("api", "operator", "extender", "device_plugin", "router", "cli")
KERNEL = "extender/src/mica_extender/placement/kernel/libplacement.so"
RELAY = "router/src/mica_router/hot/_native.abi3.so"
"""Built into the tree; without them the extender and the router would do in Python what takes several times as long there."""
USER = "65532:65532"
TAG_LENGTH = 12
ALIAS_TAG = "dev"
"""Second tag of every image, always the last import: for manifests that people write, as those in examples/."""


@dataclass(frozen=True)
class Built:
    """An image in the store and the reference it is imported as."""

    name: str
    reference: str
    manifest: str


def code_files(paths: Paths) -> dict[str, Path]:
    """The last layer of the product's image: the same files as the last stage of the Dockerfile copies."""
    files: dict[str, Path] = {}
    for component in COMPONENTS:
        files |= tree(paths.repo / component / "src", "opt/mica/src")
    for library in (KERNEL, RELAY):
        require(paths.repo / library, "kernel")
    for name in ("libmica.so", "libmica-nvml.so", "gpu-monitor"):
        files[f"opt/mica/lib/{name}"] = require(paths.shim / name, "shim")
    files["opt/mica/bin/mica-arbiter"] = require(paths.shim / "mica-arbiter", "shim")
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        files[f"opt/mica/sim/{name}"] = require(paths.shim / "sim" / name, "shim")
    return files


def _short(manifest: str) -> str:
    return manifest.removeprefix("sha256:")[:TAG_LENGTH]


def _with_layer(store: Store, below: Image, files: Mapping[str, Path], config: Mapping[str, Any] | None = None) -> str:
    """Append one layer; manifest digest."""
    layer = store.layer(store.put(make_layer(files)))
    merged = {**below.config, "config": {**below.config.get("config", {}), **(config or {})}}
    return store.save(Image((*below.layers, layer), merged))


def _scratch() -> Image:
    return Image((), {"architecture": base.architecture(), "os": "linux", "config": {}})


def _mica(paths: Paths, versions: Versions, store: Store, base_image: tuple[str, str]) -> Built:
    """Tagged by its content: a change of code or dependencies is a new tag, so that Helm sees it."""
    below = store.load(runtime.ensure(paths, versions, store, base_image))
    manifest = _with_layer(store, below, code_files(paths))
    tag = _short(manifest)
    return Built("mica", f"localhost/mica:{tag}", store.remember(f"mica-{tag}", manifest))


def _kube_scheduler(store: Store, program: Path, version: str) -> Built:
    key = f"kube-scheduler-{hashlib.sha256(str(program).encode()).hexdigest()[:TAG_LENGTH]}"
    manifest = store.find(key)
    if manifest is None:
        path = "PATH=/usr/local/bin"
        config = {"Env": [path], "Entrypoint": ["/usr/local/bin/kube-scheduler"], "User": USER}
        manifest = _with_layer(store, _scratch(), {"usr/local/bin/kube-scheduler": program}, config)
        store.remember(key, manifest)
    return Built("kube-scheduler", f"localhost/kube-scheduler:v{version}", manifest)


def _pause(paths: Paths, store: Store) -> Built:
    source = paths.hack / "images" / "pause.c"
    key = f"pause-{hashlib.sha256(source.read_bytes()).hexdigest()[:TAG_LENGTH]}"
    manifest = store.find(key)
    if manifest is None:
        with tempfile.TemporaryDirectory() as scratch:
            program = Path(scratch, "pause")
            run(["cc", "-static", "-Os", "-Wall", "-s", "-o", program, source])
            config = {"Entrypoint": ["/pause"], "User": USER}
            manifest = store.remember(key, _with_layer(store, _scratch(), {"pause": program}, config))
    return Built("pause", "localhost/pause:1", manifest)


def _uv() -> str:
    """The pinned uv of the development environment."""
    return str(Path(sys.executable).with_name("uv"))


def _engine_libraries(paths: Paths, store: Store, base_image: tuple[str, str], lock: Path) -> Image:
    """Base and the engine's dependencies, installed for the Python of the base."""
    text = base_image[0].encode() + lock.read_bytes()
    key = f"engine-{hashlib.sha256(text).hexdigest()[:16]}"
    known = store.find(key)
    if known:
        return store.load(known)
    with step("demo engine: installing its locked dependencies"), tempfile.TemporaryDirectory(dir=paths.images) as scratch:
        python = "/usr/bin/python3"
        run(
            [*(_uv(), "pip", "install", "--quiet", "--python", python, "--target", scratch), "--require-hashes", "-r", lock],
            env={**os.environ, "UV_LINK_MODE": "copy"},
            do="check the network (Python packages must be reachable), then run again",
        )
        files = tree(Path(scratch), "opt/engine/lib")
        config = {"Env": [base.PATH_ENV, "PYTHONPATH=/opt/engine/src:/opt/engine/lib", "PYTHONUNBUFFERED=1"], "User": USER}
        manifest = _with_layer(store, store.load(base_image[1]), files, config)
    return store.load(store.remember(key, manifest))


def _demo_engine(paths: Paths, store: Store, base_image: tuple[str, str]) -> Built | None:
    folder = paths.hack / "demo_engine"
    lock = folder / "requirements.lock"
    if not lock.exists():
        return None
    below = _engine_libraries(paths, store, base_image, lock)
    files = {f"opt/engine/src/{file.name}": file for file in folder.glob("*.py")}
    config = {"Entrypoint": ["python3", "/opt/engine/src/engine.py"], "Cmd": []}
    manifest = _with_layer(store, below, files, config)
    tag = _short(manifest)
    return Built("mica-demo-engine", f"localhost/mica-demo-engine:{tag}", store.remember(f"demo-engine-{tag}", manifest))


def _test_gpu(paths: Paths, store: Store, base_image: tuple[str, str]) -> Built | None:
    tools = paths.shim / "tools"
    programs = {f"usr/local/bin/{file.name}": file for file in sorted(tools.glob("*")) if os.access(file, os.X_OK)}
    programs = {name: file for name, file in programs.items() if file.is_file()}
    if not programs:
        return None
    config = {"Env": [base.PATH_ENV], "User": USER}
    manifest = _with_layer(store, store.load(base_image[1]), programs, config)
    tag = _short(manifest)
    return Built("mica-test-gpu", f"localhost/mica-test-gpu:{tag}", store.remember(f"test-gpu-{tag}", manifest))


def build_all(paths: Paths, versions: Versions, programs: Mapping[str, Path]) -> tuple[Store, list[Built]]:
    """Build every image that can be built from what is there."""
    host.require_root()
    host.install(host.IMAGE_NEEDS)
    host.require_space(paths.cache, host.GIB, "the images")
    code_files(paths)  # before minutes of work, not after
    with locked(paths.locks / "images", waiting_for="another build of the images"):
        store = Store(paths.images)
        base_image = base.ensure(store)
        images = [
            _pause(paths, store),
            _kube_scheduler(store, programs["kube-scheduler"], versions.kubernetes),
            _mica(paths, versions, store, base_image),
            _demo_engine(paths, store, base_image),
            _test_gpu(paths, store, base_image),
        ]
        store.prune()
    return store, [image for image in images if image is not None]


def build(paths: Paths, versions: Versions, programs: Mapping[str, Path]) -> dict[str, str]:
    """Build every image that can be built from what is there; references by image name."""
    return {image.name: image.reference for image in build_all(paths, versions, programs)[1]}


def load(paths: Paths, versions: Versions, box: Box) -> dict[str, str]:
    """Build what changed and import what the box's containerd lacks; references by image name."""
    store, images = build_all(paths, versions, binaries.ensure(paths, versions))
    return _import(store, box, images)


def load_pause(paths: Paths, box: Box) -> dict[str, str]:
    """Import nothing but `pause`: enough for a node that runs pods which do nothing."""
    host.install(host.IMAGE_NEEDS)
    with locked(paths.locks / "images", waiting_for="another build of the images"):
        store = Store(paths.images)
        pause = _pause(paths, store)
    return _import(store, box, [pause])


def _import(store: Store, box: Box, images: Sequence[Built]) -> dict[str, str]:
    """One archive with the blobs that containerd lacks; layers that it has are never written again."""
    ctr = (str(box.binary("ctr")), "--address", str(box.plan.containerd_socket), "--namespace", "k8s.io")
    there = dict(line.split()[0:3:2] for line in box.exec(*ctr, "images", "ls").splitlines()[1:])
    named = {image.reference: image.manifest for image in images}
    named |= {f"localhost/{image.name}:{ALIAS_TAG}": image.manifest for image in images}
    wanted = {reference: manifest for reference, manifest in named.items() if there.get(reference) != manifest}
    if wanted:
        have = set(box.exec(*ctr, "content", "ls", "--quiet").split())
        archive = box.plan.root / "import.tar"
        with step(f"box {box.name}: importing {', '.join(sorted(wanted))}"):
            try:
                write_archive(store, wanted, archive, without=have)
                box.exec(*ctr, "images", "import", str(archive))
            finally:
                archive.unlink(missing_ok=True)
    return {image.name: image.reference for image in images}
