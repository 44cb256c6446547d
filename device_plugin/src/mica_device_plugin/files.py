"""The file system as the agent uses it: whole files replaced atomically, directories made and removed.

A port, so that tests can stop the agent between any two changes. Paths inside directories that containers can write to are
never followed through symbolic links.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

_TMP_PREFIX: Final = ".mica-tmp-"


class Files(Protocol):
    """Changes and reads of the host's files. Every method raises OSError."""

    def read(self, path: Path) -> bytes | None:
        """Content, or None when there is no such file."""
        ...

    def write(self, path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
        """Replace a file atomically; ``durable``: it survives a power failure once this returns."""
        ...

    def write_dir(self, path: Path, contents: Mapping[str, bytes], *, mode: int) -> None:
        """Make a directory with these files appear at once, in place of one that may be there; durable."""
        ...

    def make_dir(self, path: Path) -> None:
        """Make a directory (0755) and its parents; an existing one is fine."""
        ...

    def names(self, path: Path) -> list[str]:
        """Sorted names in a directory, temporary files of ours left out; none when it does not exist."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with everything in it, or a file; a missing one is fine."""
        ...

    def is_file(self, path: Path) -> bool:
        """Whether a regular, non-empty file is there."""
        ...


class HostFiles:
    """The real file system."""

    def read(self, path: Path) -> bytes | None:
        """As in Files."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def write(self, path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
        """As in Files."""
        temporary = path.with_name(f"{_TMP_PREFIX}{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            _sync_directory(path.parent)

    def write_dir(self, path: Path, contents: Mapping[str, bytes], *, mode: int) -> None:
        """As in Files. Two steps when one is there: a directory cannot be renamed over a full one."""
        temporary = path.with_name(f"{_TMP_PREFIX}{secrets.token_hex(8)}")
        try:
            self.make_dir(temporary)
            for name, data in contents.items():
                self.write(temporary / name, data, mode=mode, durable=True)
            self.remove_tree(path)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_directory(path.parent)

    def make_dir(self, path: Path) -> None:
        """As in Files."""
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def names(self, path: Path) -> list[str]:
        """As in Files."""
        try:
            return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(_TMP_PREFIX))
        except FileNotFoundError:
            return []

    def remove(self, path: Path) -> None:
        """As in Files."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """As in Files."""
        if path.is_dir() and not path.is_symlink():
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def is_file(self, path: Path) -> bool:
        """As in Files."""
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size > 0


def sweep_temporaries(directory: Path) -> None:
    """Remove what a killed agent left half-written in a directory. Links are removed, never followed."""
    for path in directory.glob(f"{_TMP_PREFIX}*"):
        HostFiles().remove_tree(path)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
