"""Processes that end with their parent, however that ends (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def start_child(command: Sequence[str], *, environment: Mapping[str, str], files: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own (Ctrl-C is its parent's to act on) that gets SIGKILL when this one is gone.

    Must be called by the main thread: the kernel watches the thread that started it. `files` are kept open in it.
    """
    parent = os.getpid()

    def tie() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before it could be watched.
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        command, env=dict(environment), pass_fds=tuple(files), start_new_session=True, preexec_fn=tie, stdin=subprocess.DEVNULL
    )


def end_children(children: Sequence[subprocess.Popen[bytes]], *, seconds: float) -> None:
    """SIGTERM to all, SIGKILL to those that are left after `seconds`."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
