"""Deterministic layers: the same files give the same bytes, whenever and wherever the tar is made."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

IGNORED_DIRS = {"__pycache__"}
IGNORED_SUFFIXES = {".pyc"}


def tree(source: Path, target: str) -> dict[str, Path]:
    """Files below `source` by their path in the image below `target`; compiled Python is left out."""
    return {
        f"{target}/{file.relative_to(source).as_posix()}": file
        for file in source.rglob("*")
        if file.is_file() and file.suffix not in IGNORED_SUFFIXES and not IGNORED_DIRS.intersection(file.parts)
    }


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def _file(name: str, source: Path) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    stat = source.stat()
    info.size = stat.st_size
    info.mode = 0o755 if stat.st_mode & 0o100 else 0o644
    return info


def make_layer(files: Mapping[str, Path]) -> bytes:
    """An uncompressed tar of `files` (path in the image → file here) and their folders, owned by root, times 0.

    A source that is a symbolic link is stored as the file it points to.
    """
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(folders | set(files)):
            if name in folders:
                tar.addfile(_directory(name))
                continue
            with files[name].open("rb") as handle:
                tar.addfile(_file(name, files[name]), handle)
    return out.getvalue()
