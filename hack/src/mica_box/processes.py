"""The processes of a box as the host sees them. Found by what they are, not by what a file once said."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from mica_box.errors import BoxError

INIT_MODULE = "mica_box.init"
KILL_TIMEOUT_S = 20.0


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def command_line(pid: int) -> list[str]:
    """The words of the process's command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def namespace(pid: int, kind: str) -> str:
    """Identity of a namespace (`net:[4026531840]`); empty when the process is gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return ""


def init_pid(spec: Path) -> int | None:
    """The init that was started with this spec file: the one in a pid namespace of its own.

    `unshare`, its parent, has the same words at the end of its command line.
    """
    own = namespace(os.getpid(), "pid")
    for pid in _pids():
        words = command_line(pid)
        if words[1:] == ["-m", INIT_MODULE, str(spec)] and namespace(pid, "pid") != own:
            return pid
    return None


def launchers(spec: Path) -> list[int]:
    """Processes that were started to run this spec, the init included."""
    return [pid for pid in _pids() if command_line(pid)[-3:] == ["-m", INIT_MODULE, str(spec)]]


def members(spec: Path) -> list[int]:
    """Every process of the box: the launchers and whatever shares the init's pid namespace."""
    found = set(launchers(spec))
    own = namespace(os.getpid(), "pid")
    spaces = {namespace(pid, "pid") for pid in found} - {own, ""}
    return sorted(found | {pid for pid in _pids() if namespace(pid, "pid") in spaces})


def kill_all(spec: Path) -> None:
    """End the box: its init takes everything else along. Raises when processes survive (uninterruptible I/O)."""
    doomed = set(members(spec))
    for pid in launchers(spec):
        _kill(pid)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while left := [pid for pid in doomed if command_line(pid)]:
        if time.monotonic() > deadline:
            raise BoxError(
                f"processes of the box do not end: {left}",
                do="they wait for the disk or the kernel; run the same command again in a minute",
            )
        for pid in left:
            _kill(pid)
        time.sleep(0.05)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
