"""The images of the product and its tests: what they are made of, and their import into a box."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mica_box.box import Box
from mica_box.errors import BoxError
from mica_box.paths import Paths
from mica_box.versions import Versions


def build(paths: Paths, versions: Versions, binaries: Mapping[str, Path]) -> dict[str, str]:
    """Build every image; references by image name."""
    raise BoxError("images are not built yet")


def load(paths: Paths, versions: Versions, box: Box) -> dict[str, str]:
    """Build what changed and import it; references by image name."""
    raise BoxError("images are not built yet")
