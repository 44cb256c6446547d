"""What a container does to its usage region: lock a slot, take a lease, reserve space. And an agent without privileges."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mica_device_plugin.region import SLOTS_OFFSET

_FALLOC_FL_KEEP_SIZE = 1
_NOBODY = 65534


@contextmanager
def slot_lock(path: Path, *, slot: int = 0) -> Iterator[int]:
    """A process that uses a GPU: the descriptor with which it holds its slot."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        lock = struct.pack("hhxxxxqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, SLOTS_OFFSET + slot, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def lease(descriptor: int) -> Iterator[None]:
    """Nobody else can open the file meanwhile. Being asked to give it up comes as a signal that is ignored by default."""
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def reserve(path: Path, *, offset: int, length: int) -> None:
    """Allocate space in a file without a change of its length."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        if libc.fallocate(file.fileno(), _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)):
            raise OSError(ctypes.get_errno(), "fallocate")


@contextmanager
def without_privileges() -> Iterator[None]:
    """The agent's root has no capabilities, so modes of files hold for it. Where this process is root, it is another user."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
