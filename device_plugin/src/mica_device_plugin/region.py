"""Reader of the usage region, version 2 (layout: vgpu_shim/README.md). The content is written by containers: hostile input.

Everything is range-checked and a region that makes no sense is reported as such, never guessed at. Nothing is decided from the
numbers; only the kernel's word on who holds a lock (``is_live``) counts for cleanup.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE: Final = 1_069_056
MAGIC: Final = b"MICARGN1"
_HEADER: Final = struct.Struct("<8sIIIIIIQQ")
_HEADER_BYTES: Final = 4096
_GPU_BYTES: Final = 1024
_GPU_MAX: Final = 16
_SLOT_MAX: Final = 1024
_SLOT_BYTES: Final = 1024
SLOTS_OFFSET: Final = 20_480
_SHARE: Final = struct.Struct("<48sQI4xQQQQ")
_TIMES: Final = struct.Struct("<QQQ")
_TIMES_OFFSET: Final = 192
_USED_MASK: Final = (1 << 48) - 1
_FLOCK: Final = struct.Struct("hhxxxxqqixxxx")
_F_OFD_GETLK: Final = 36
_LOCKS: Final = Path("/proc/locks")
_LOOKS: Final = 3
_BLOCK_BYTES: Final = 512
_OWN_BLOCKS: Final = 64 << 10
"""Bytes of blocks that a file system may count for itself: ext4 does for the list of a file's extents."""


class InvalidRegion(ValueError):
    """The region is not one that the limiter writes; the message says why."""


@dataclass(frozen=True, slots=True)
class GPUUsage:
    """What a container says it used of one card: bytes, nanoseconds and counts since the region was created.

    ``context`` and ``module`` are parts of ``used``; the rest of it is data.
    """

    uuid: str
    limit: int
    cores: int
    used: int
    denials: int
    context: int
    module: int
    busy_ns: int
    launches: int
    throttled_ns: int


def parse_region(data: bytes) -> tuple[GPUUsage, ...]:
    """Records of the region's head (``SLOTS_OFFSET`` bytes suffice); empty: nothing has used a GPU yet. Raises InvalidRegion."""
    if len(data) < SLOTS_OFFSET:
        raise InvalidRegion(f"{len(data)} bytes, expected {SLOTS_OFFSET} at least")
    magic, version, gpu_max, slot_max, gpu_bytes, slot_bytes, count, size, _ = _HEADER.unpack_from(data)
    if magic == bytes(8):
        return ()
    if magic != MAGIC or version != 2:
        raise InvalidRegion("not a usage region of version 2")
    if (gpu_max, slot_max, gpu_bytes, slot_bytes, size) != (_GPU_MAX, _SLOT_MAX, _GPU_BYTES, _SLOT_BYTES, SIZE):
        raise InvalidRegion("unexpected geometry")
    if count > _GPU_MAX:
        raise InvalidRegion(f"{count} GPUs, {_GPU_MAX} at most")
    return tuple(_record(data, _HEADER_BYTES + _GPU_BYTES * index) for index in range(count))


def read_region(path: Path) -> tuple[GPUUsage, ...]:
    """Records of a region file. Raises InvalidRegion, also when the file is not a plain one of the right size."""
    try:
        descriptor = _open(path)
    except OSError as error:
        raise InvalidRegion(f"cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if found.st_size != SIZE or _surplus(found):
            raise InvalidRegion("not of the right size")
        return parse_region(os.pread(descriptor, SLOTS_OFFSET, 0))
    finally:
        os.close(descriptor)


def is_live(path: Path) -> bool:
    """Whether a process of the container holds a slot: the kernel drops the lock with the process, so this cannot be stale.

    Dead is only what is not there, is no plain file or has no lock. What a container does to its region (its size, its mode, a
    lease on it) must not make it look dead, nor keep it alive for ever.
    """
    try:
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and _has_lock(path, inode=found.st_ino)
    except (FileNotFoundError, NotADirectoryError, InvalidRegion):
        return False
    except OSError:
        return True


def _has_lock(path: Path, *, inode: int) -> bool:
    try:
        descriptor = _open(path)
    except PermissionError:
        return _lock_is_listed(inode)
    try:
        query = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, SLOTS_OFFSET, SIZE - SLOTS_OFFSET, 0)
        answer = fcntl.fcntl(descriptor, _F_OFD_GETLK, query)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def cut(path: Path) -> int:
    """Cut off what a container added to its region, in length or as space reserved behind its end; how many bytes.

    0 also where there is no plain file. Raises OSError where there is something to cut and it cannot be: a file taken from the
    agent, or under a lease, which the kernel breaks after a while (``fs.lease-break-time``) because this tried to open the file.
    May wait for a container that is writing.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or not _surplus(found):
            return 0
        descriptor = _open(path, os.O_WRONLY)
    except (FileNotFoundError, NotADirectoryError, InvalidRegion):
        return 0
    try:
        found = os.fstat(descriptor)
        os.ftruncate(descriptor, min(found.st_size, SIZE))
    finally:
        os.close(descriptor)
    return _surplus(found)


def _surplus(found: os.stat_result) -> int:
    """Bytes beyond the region's end. A file may have blocks there without being longer; its last one is always a whole one."""
    reserved = found.st_blocks * _BLOCK_BYTES + -SIZE // found.st_blksize * found.st_blksize
    return max(found.st_size - SIZE, reserved if reserved > _OWN_BLOCKS else 0, 0)


def _lock_is_listed(inode: int) -> bool:
    """Whether the kernel's table of locks has one on a slot of this file: for a file that must not be opened. True in doubt.

    A long table comes in pieces, between which it may shift so that one is missed: it is read several times, and one sighting is
    enough. Locks of other PID namespaces are listed if they belong to open file descriptions, which is what the limiter takes.
    """
    try:
        return any(_is_slot_lock(line.split(), inode) for _ in range(_LOOKS) for line in _LOCKS.read_text().splitlines())
    except OSError:
        return True


def _is_slot_lock(fields: list[str], inode: int) -> bool:
    """As proc_locks(5) has it; of the file the inode only, because some file systems show another device than stat does."""
    match fields:
        case [_, "OFDLCK", _, "WRITE", _, file, _, last]:
            return file.rpartition(":")[2] == str(inode) and (last == "EOF" or int(last) >= SLOTS_OFFSET)
    return False


def _open(path: Path, access: int = os.O_RDONLY) -> int:
    descriptor = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRegion("not a plain file")
    return descriptor


def _record(data: bytes, offset: int) -> GPUUsage:
    raw_uuid, limit, cores, used, denials, context, module = _SHARE.unpack_from(data, offset)
    busy, launches, throttled = _TIMES.unpack_from(data, offset + _TIMES_OFFSET)
    uuid = raw_uuid.rstrip(b"\0").decode("ascii", errors="replace")
    if not uuid.isascii() or not uuid.isprintable() or not uuid:
        raise InvalidRegion("malformed GPU UUID")
    if cores > 100:
        raise InvalidRegion(f"{cores} % cores")
    return GPUUsage(
        uuid=uuid,
        limit=limit,
        cores=cores,
        used=used & _USED_MASK,
        denials=denials,
        context=context,
        module=module,
        busy_ns=busy,
        launches=launches,
        throttled_ns=throttled,
    )
