"""Processes of the benchmark: started on a core of their own, asked for their CPU time and memory, and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks._command import CannotMeasure

ROUTER_CORE: Final = 0
READY_WITHIN_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Running:
    """A process with all its children."""

    pid: int

    def cpu(self) -> float:
        """Seconds of CPU that the process and its living descendants have used."""
        return sum(_cpu(pid) for pid in family(self.pid))

    def tasks(self) -> list[int]:
        """Their threads."""
        found: list[int] = []
        for pid in family(self.pid):
            with contextlib.suppress(OSError):
                found.extend(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
        return found

    def memory_mib(self) -> dict[int, float]:
        """Resident memory of each process of the family."""
        return {pid: _rss(pid) for pid in family(self.pid)}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def other_core() -> int:
    """The core for engine and load. Raises CannotMeasure where there is only one."""
    others = sorted(os.sched_getaffinity(0) - {ROUTER_CORE})
    if not others:
        raise CannotMeasure("the router's core may not do anything else: this needs a machine with two cores or more")
    return others[0]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, core: int, log: Path, environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Iterator[Running]:
    """The command on one core, its output in a file. Ends its whole process group."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(os.environ if environment is None else environment),
            cwd=directory,
            start_new_session=True,
        )
        try:
            yield Running(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, *, who: str, log: Path, headers: Mapping[str, str], data: bytes | None = None) -> None:
    """Until the URL answers 200. Raises CannotMeasure with the end of the log when it does not."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with urlopen(Request(url, headers=dict(headers), data=data), timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.2)
    end = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise CannotMeasure(f"{who} did not get ready within {READY_WITHIN_S:.0f} s; the end of its log:\n{end}")


def module(name: str, *arguments: object) -> list[str]:
    """Command line of one of our modules."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def family(pid: int) -> list[int]:
    """A process and its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(parents.get(member, ()))
    return found


def _cpu(pid: int) -> float:
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, IndexError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _rss(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0
