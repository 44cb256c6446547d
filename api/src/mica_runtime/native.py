"""Parts in C that were built beside their sources: whether they were built from what is there now. Not for building them."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sources_digest(folder: Path) -> str:
    """Names the C sources in a folder, as ``build_native.py`` does (which runs where this package is not installed)."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
