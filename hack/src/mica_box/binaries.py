"""The Kubernetes parts as programs: taken from $MICA_KUBE_ASSETS, else from the cache, else built from Go modules.

The cache is keyed by product version and recipe (go.mod, go.sum, flags). Each program is renamed into place when it is
whole, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mica_box.errors import BoxError
from mica_box.golang import Go, find_or_install
from mica_box.host import GIB, require_space
from mica_box.locks import locked
from mica_box.paths import Paths
from mica_box.proc import run, tail
from mica_box.progress import Meter, say, step
from mica_box.versions import Binary, Product, Versions, products

FLAGS = ("-mod=readonly", "-trimpath")
MODULE_CACHE_BYTES = int(2.5 * GIB)
BUILD_CACHE_BYTES = int(5.5 * GIB)
BINARY_BYTES = int(0.06 * GIB)
WARM_CACHE_BYTES = GIB // 2
"""A Go cache larger than this already holds most of what a build would add."""


@dataclass(frozen=True)
class Missing:
    """A program that neither the assets nor the cache hold."""

    product: Product
    binary: Binary
    target: Path


def recipe_key(product: Product, module: Path) -> str:
    """First 10 hex digits over everything that goes into the build."""
    parts = [product.name, product.version, product.ldflags, " ".join(FLAGS)]
    parts += [(module / name).read_text() for name in ("go.mod", "go.sum")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def cached_path(paths: Paths, product: Product, binary: Binary) -> Path:
    """Where the cache holds (or will hold) a program."""
    key = recipe_key(product, paths.hack / "kube" / product.name)
    return paths.cache / "kube" / f"{product.name}-{product.version}-{key}" / binary.name


def says_version(program: Path, binary: Binary, version: str) -> bool:
    """Whether the program runs here and reports `version` (with or without a leading v)."""
    try:
        said = subprocess.run([str(program), *binary.version_args], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    words = (said.stdout + said.stderr).replace(",", " ").replace(":", " ").split()
    return any(word.removeprefix("v").split("+")[0] == version for word in words)


def _from_assets(paths: Paths, product: Product, binary: Binary) -> Path | None:
    if paths.assets is None or not (paths.assets / binary.name).is_file():
        return None
    program = paths.assets / binary.name
    if says_version(program, binary, product.version):
        return program
    say(f"! {program} is not {product.name} {product.version}: ignored")
    return None


def locate(paths: Paths, versions: Versions) -> tuple[dict[str, Path], list[Missing]]:
    """Programs that are there, by name, and those that are missing."""
    found: dict[str, Path] = {}
    missing: list[Missing] = []
    for product in products(versions):
        for binary in product.binaries:
            target = cached_path(paths, product, binary)
            program = _from_assets(paths, product, binary) or (target if target.is_file() else None)
            if program:
                found[binary.name] = program
            else:
                missing.append(Missing(product, binary, target))
    return found, missing


def ensure(paths: Paths, versions: Versions) -> dict[str, Path]:
    """Every program, by name; builds what is missing. Raises BoxError when that cannot be done."""
    found, missing = locate(paths, versions)
    if not missing:
        return found
    with locked(paths.locks / "binaries", waiting_for="another build of the binaries"):
        found, missing = locate(paths, versions)
        if missing:
            _build_all(paths, versions, missing)
            found, missing = locate(paths, versions)
    if missing:
        raise BoxError(f"built, but still missing: {', '.join(m.binary.name for m in missing)}")
    return found


def _build_all(paths: Paths, versions: Versions, missing: Sequence[Missing]) -> None:
    go = find_or_install(versions, paths.cache)
    require_space(paths.cache, BINARY_BYTES * len(missing), f"{len(missing)} programs")
    for name, need in (("GOMODCACHE", MODULE_CACHE_BYTES), ("GOCACHE", BUILD_CACHE_BYTES)):
        folder = go.folder(name)
        if not _is_warm(folder):
            require_space(folder, need, f"the Go build ({name})")
    names = ", ".join(m.binary.name for m in missing)
    say(f"building {names} (cold: 12 to 15 minutes on 2 cores; an interrupted build goes on where it stopped)")
    stale: set[str] = set()
    for product in dict.fromkeys(item.product for item in missing):
        packages = [item.binary.package for item in missing if item.product == product]
        stale |= _stale_packages(go, paths, product, packages)
    total = len(stale) + len(missing)
    with Meter("building", total) as meter:
        for item in missing:
            _build(go, paths, item, meter)


def _is_warm(folder: Path) -> bool:
    size = 0
    for entry in _files(folder):
        size += entry
        if size > WARM_CACHE_BYTES:
            return True
    return False


def _files(folder: Path) -> Iterator[int]:
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(root) / name).lstat().st_size
            except OSError:
                continue


def _link_flags(product: Product) -> tuple[str, str]:
    return ("-ldflags", f"-s -w {product.ldflags}".strip())


def _stale_packages(go: Go, paths: Paths, product: Product, packages: Sequence[str]) -> set[str]:
    """Packages that the build will compile; fetches the modules on the way."""
    with step(f"Go modules of {product.name} {product.version}"):
        said = run(
            [go.binary, "list", *FLAGS, "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", *packages],
            env=go.env,
            cwd=paths.hack / "kube" / product.name,
            do="check the network (the Go module proxy must be reachable), then run again: it goes on where it stopped",
        )
    return set(said.split())


def _build(go: Go, paths: Paths, item: Missing, meter: Meter) -> None:
    """Compile one program beside its target and rename it into place."""
    module = paths.hack / "kube" / item.product.name
    item.target.parent.mkdir(parents=True, exist_ok=True)
    part = item.target.with_name(f".{item.target.name}.part")
    argv = [go.binary, "build", "-v", *FLAGS, *_link_flags(item.product), "-o", part, item.binary.package]
    last: deque[str] = deque(maxlen=30)
    for line in _lines([str(word) for word in argv], module, go.env, last):
        if not line.startswith("go: "):
            meter.advance(f"building {item.binary.name}")
    part.rename(item.target)
    meter.advance(f"built {item.binary.name}")


def _lines(argv: Sequence[str], cwd: Path, env: Mapping[str, str], last: deque[str]) -> Iterable[str]:
    """Lines of stderr while the command runs; raises BoxError at its end when it failed."""
    with subprocess.Popen(argv, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last.append(line)
            yield line
    if process.returncode != 0:
        raise BoxError(
            f"{' '.join(argv[:2])} of {argv[-1]} failed with status {process.returncode}:\n{tail(''.join(last))}",
            do="mend what it says (a full disk, no network), then run again: it goes on where it stopped",
        )
