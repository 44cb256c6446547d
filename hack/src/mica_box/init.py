"""The init of a box: process 1 of its pid namespace. Mounts, network, daemons in order, restarts, reaping.

Runs as `python -m mica_box.init SPEC.json` inside fresh network, mount and pid namespaces. When it ends, the kernel ends
every process of the box and drops every mount and link. It uses the standard library only and knows nothing of clusters.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from mica_box.probe import ready
from mica_box.spec import Daemon, DaemonStatus, Spec, Status

INTERFACE_TIMEOUT_S = 30.0
TICK_S = 0.1
RESTART_AFTER_S = 1.0


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_mounts(spec: Spec) -> None:
    """Private copies of every host folder that the daemons write to at fixed paths."""
    _mount("--make-rshared", "/")
    for source, target in spec.binds:
        Path(source).mkdir(parents=True, exist_ok=True)
        _mount("--bind", source, target)
    for target in spec.tmpfs:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", target)
    for folder in spec.folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
    for path, text in spec.files.items():
        _write(Path(path), text)
    for name in spec.world_writable:
        Path(name).chmod(0o777 if Path(name).is_dir() else 0o666)
    for name, value in spec.pinned_sysctls.items():
        private = Path("/run/sysctl") / name
        _write(private, value + "\n")
        _mount("--bind", str(private), f"/proc/sys/{name}")


def wait_for_interface(name: str, *, timeout_s: float = INTERFACE_TIMEOUT_S) -> None:
    """Until the host has put the link here; ends the box when the host has gone away in between."""
    deadline = time.monotonic() + timeout_s
    while name not in {entry for _, entry in socket.if_nameindex()}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no interface {name} after {timeout_s} s")
        time.sleep(0.02)


def make_network(spec: Spec) -> None:
    """Addresses and the default route of the box."""
    wait_for_interface(spec.interface)
    for words in (
        ("link", "set", "lo", "up"),
        ("addr", "add", spec.address, "dev", spec.interface),
        ("link", "set", spec.interface, "up"),
        ("route", "add", "default", "via", spec.gateway),
    ):
        subprocess.run(["ip", *words], check=True)
    for name, value in spec.sysctls.items():
        Path("/proc/sys", name).write_text(value)


class Supervisor:
    """Starts daemons when what they need is ready, restarts those that die, and writes down what it sees."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._pids: dict[str, int] = {}
        self._ready: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._exits: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._written = ""

    def _start(self, daemon: Daemon) -> None:
        log = Path(self._spec.logs) / f"{daemon.name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        program = next(
            str(Path(folder, daemon.argv[0])) for folder in self._spec.path.split(":") if Path(folder, daemon.argv[0]).exists()
        )
        self._pids[daemon.name] = os.posix_spawn(
            program,
            daemon.argv,
            {"PATH": self._spec.path, "HOME": "/run", "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
        )

    def _reap(self) -> None:
        """Take the exit status of every dead child; orphans of pods end up here too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = next((name for name, known in self._pids.items() if known == pid), None)
            if name is not None:
                self._died(name, os.waitstatus_to_exitcode(status))

    def _died(self, name: str, code: int) -> None:
        del self._pids[name]
        self._ready.discard(name)
        self._exits[name] = code
        self._deaths[name] = self._deaths.get(name, 0) + 1
        self._not_before[name] = time.monotonic() + RESTART_AFTER_S

    def _may_start(self, daemon: Daemon) -> bool:
        """Order matters at the first start only: a restarted kubelet need not wait for anybody."""
        if daemon.name in self._pids or time.monotonic() < self._not_before.get(daemon.name, 0.0):
            return False
        return daemon.name in self._exits or self._ready.issuperset(daemon.after)

    def tick(self) -> None:
        """One round: reap, start, probe, report."""
        self._reap()
        for daemon in self._spec.daemons:
            if self._may_start(daemon):
                self._start(daemon)
            if daemon.name in self._pids and daemon.name not in self._ready and ready(daemon.probe, self._spec.pki):
                self._ready.add(daemon.name)
        self._report()

    def _report(self) -> None:
        names = [daemon.name for daemon in self._spec.daemons if daemon.name in {*self._pids, *self._exits}]
        daemons = {
            name: DaemonStatus(
                pid=self._pids.get(name, 0),
                ready=name in self._ready,
                deaths=self._deaths.get(name, 0),
                exit=self._exits.get(name),
            )
            for name in names
        }
        write_status(self._spec, Status(daemons))


def write_status(spec: Spec, status: Status) -> None:
    """Replace the status file; a reader never sees half of one."""
    target = Path(spec.status)
    text = status.to_json()
    if target.exists() and target.read_text() == text:
        return
    part = target.with_name(target.name + ".part")
    part.write_text(text)
    part.rename(target)


def main(path: str) -> None:
    """Run until SIGTERM; a failure before the first daemon is written to the status file."""
    spec = Spec.from_json(Path(path).read_text())
    os.environ["PATH"] = spec.path
    awaited = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        make_mounts(spec)
        make_network(spec)
    except (OSError, subprocess.CalledProcessError, TimeoutError) as error:
        write_status(spec, Status({}, failed=str(error)))
        raise SystemExit(1) from error
    supervisor = Supervisor(spec)
    while True:
        supervisor.tick()
        got = signal.sigtimedwait(awaited, TICK_S)
        if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT):
            return


if __name__ == "__main__":
    main(sys.argv[1])
