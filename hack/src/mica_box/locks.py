"""One at a time: advisory file locks that a dead process cannot hold."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mica_box.progress import say


@contextmanager
def locked(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; says what it waits for when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"… waiting for {waiting_for}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def shared(path: Path, *, last_one: Callable[[], object]) -> Iterator[None]:
    """Use something together with other processes; whoever leaves last calls `last_one`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
            if _alone(handle):
                last_one()


def _alone(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
