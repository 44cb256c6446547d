"""A program that runs on the host beside a box: started and stopped, its log and its processor time. For tests and benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STOP_WITHIN_S = 20.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """Processor time, user and system, of all threads of a process since its start. Raises OSError when it is gone."""
    # The command's name may hold spaces and brackets; the fields after its last bracket are numbers.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Child:
    """A program with its log, which grows over restarts."""

    name: str
    words: Sequence[str]
    env: Mapping[str, str]
    log: Path
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it. It is in our process group: Ctrl-C reaches it too."""
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(list(self.words), env=dict(self.env), stdout=log, stderr=subprocess.STDOUT)

    def stop(self, *, kill: bool = False) -> float:
        """End it if it runs; seconds until it was gone. One that ignores SIGTERM is killed."""
        if self.child is None:
            return 0.0
        started = time.monotonic()
        self.child.kill() if kill else self.child.terminate()
        try:
            self.child.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        return time.monotonic() - started

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.child is not None and self.child.poll() is None

    @property
    def pid(self) -> int:
        """Its process id. Raises RuntimeError when it does not run."""
        if self.child is None or self.child.poll() is not None:
            raise RuntimeError(f"{self.name} does not run:\n{self.tail()}")
        return self.child.pid

    def text(self) -> str:
        """Everything that it said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, characters: int = 3000) -> str:
        """The end of what it said, for people."""
        return self.text()[-characters:]
