"""Where things are: the repository, the caches, the state of running boxes. Nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BOXES = Path("/var/lib/mica-boxes")
"""State of running boxes, one folder each. Gone when the last box is down."""


@dataclass(frozen=True)
class Paths:
    """Folders of one invocation."""

    repo: Path
    cache: Path
    assets: Path | None
    boxes: Path = BOXES

    @property
    def hack(self) -> Path:
        return self.repo / "hack"

    @property
    def shim(self) -> Path:
        """What `make shim` builds."""
        return self.repo / "build" / "shim"

    @property
    def images(self) -> Path:
        """Image archives and bases, by the hash of what they are made of."""
        return self.cache / "images"

    @property
    def locks(self) -> Path:
        return self.cache / "locks"


def paths_from(env: Mapping[str, str]) -> Paths:
    """Paths as `$MICA_CACHE` (default `~/.cache/mica`) and `$MICA_KUBE_ASSETS` (optional) say."""
    home = Path(env.get("HOME", "/root"))
    cache = Path(env["MICA_CACHE"]) if env.get("MICA_CACHE") else home / ".cache" / "mica"
    assets = Path(env["MICA_KUBE_ASSETS"]) if env.get("MICA_KUBE_ASSETS") else None
    return Paths(repo=Path(__file__).resolve().parents[3], cache=cache.resolve(), assets=assets)
