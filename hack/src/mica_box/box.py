"""One box: up, down, and what can be asked of it while it runs."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mica_box import cgroups, config, host, network, pki, processes, state
from mica_box.errors import BoxError
from mica_box.locks import locked
from mica_box.paths import Paths
from mica_box.plan import NODE_NAME, Mode, Plan, check_name, choose_index
from mica_box.proc import run, tail
from mica_box.progress import say, step
from mica_box.spec import Status

BOX_BYTES = 4 * host.GIB
READY_TIMEOUT_S = 180.0
POLL_S = 0.1
SUBPROCESS_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Box:
    """A box that exists. Cheap to make; asks the machine whenever something is called."""

    plan: Plan

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def kubeconfig(self) -> Path:
        """A self-contained kubeconfig of a cluster admin."""
        return self.plan.kubeconfig

    @property
    def host_ip(self) -> str:
        """The host's address as the API server sees it (for webhooks that run on the host)."""
        return self.plan.host_ip

    @property
    def spec(self) -> Path:
        return self.plan.root / "spec.json"

    @property
    def was_ready(self) -> Path:
        """Exists once `up` has seen every daemon ready: a box without it was left half made."""
        return self.plan.root / "was-ready"

    def binary(self, name: str) -> Path:
        """A program of the cluster (`kubectl`, `kube-scheduler`, `helm`, `ctr`, …)."""
        return self.plan.bin / name

    def init(self) -> int:
        """Host pid of the box's init; raises when the box is not running."""
        pid = processes.init_pid(self.spec)
        if pid is None:
            raise BoxError(f"box {self.name} is not running", do=f"python -m mica_box up {self.name}")
        return pid

    def status(self) -> Status:
        """What the init last said; no daemons when it has not said anything yet."""
        try:
            return Status.from_json((self.plan.root / "status.json").read_text())
        except (OSError, ValueError):
            return Status({})

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl against the box and return its stdout; raises BoxError with what kubectl said."""
        words = [str(self.binary("kubectl")), "--kubeconfig", str(self.kubeconfig), *args]
        return run(words, stdin=stdin, timeout_s=SUBPROCESS_TIMEOUT_S)

    def inside(self, *args: str) -> list[str]:
        """The command line that runs `args` inside the box's namespaces."""
        return ["nsenter", "--target", str(self.init()), "--net", "--mount", "--pid", "--", *args]

    def exec(self, *args: str, stdin: str | None = None) -> str:
        """Run a program inside the box (its mounts, network and processes) and return its stdout."""
        return run(self.inside(*args), stdin=stdin, timeout_s=SUBPROCESS_TIMEOUT_S)

    def kill(self, daemon: str, signal: str = "KILL") -> None:
        """Send a signal to a daemon; the init starts it again a second after its end."""
        status = self.status().daemons.get(daemon)
        if status is None or status.pid == 0:
            raise BoxError(f"{daemon} does not run in box {self.name}")
        self.exec("kill", f"-{signal}", str(status.pid))

    def log(self, daemon: str) -> str:
        """The end of a daemon's log, for people."""
        try:
            return tail((self.plan.logs / f"{daemon}.log").read_text(errors="replace"))
        except OSError:
            return "    (no log)"


def find(paths: Paths, name: str) -> Box:
    """A box by name; raises when there is none."""
    plan = state.load(paths.boxes, check_name(name))
    if plan is None:
        raise BoxError(f"there is no box {name}", do=f"python -m mica_box up {name}")
    return Box(plan)


def up(paths: Paths, name: str, binaries: Mapping[str, Path], *, mode: Mode, sim_config: str) -> Box:
    """A running box. One that is healthy is kept; one that is half dead or of another kind is made anew.

    Leaves nothing behind when it is interrupted or fails.
    """
    host.require_root()
    check_name(name)
    host.install(host.BOX_NEEDS)
    with locked(paths.locks / f"box-{name}", waiting_for=f"another command on box {name}"):
        kept = _kept(paths, name, mode, sim_config, binaries)
        if kept:
            say(f"✓ box {name} is up already")
            return kept
        _remove(paths, name)
        host.require_space(paths.boxes, BOX_BYTES, f"box {name}")
        with _undone_on_failure(paths, name):
            return _create(paths, name, binaries, mode=mode, sim_config=sim_config)


@contextmanager
def _undone_on_failure(paths: Paths, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        say(f"… removing what there is of box {name}")
        _remove(paths, name)
        raise


def _kept(paths: Paths, name: str, mode: Mode, sim_config: str, binaries: Mapping[str, Path]) -> Box | None:
    """The box that runs, if it is what was asked for and every daemon is ready."""
    plan = state.load(paths.boxes, name)
    if plan is None or plan.mode is not mode:
        return None
    box = Box(plan)
    wanted = config.make_spec(plan, sim_config=sim_config)
    try:
        same = box.spec.read_text() == wanted.to_json() and _links(plan) == dict(binaries)
    except OSError:
        return None
    if not same or not box.was_ready.exists() or processes.init_pid(box.spec) is None:
        return None
    try:
        _wait_ready(box, timeout_s=15.0)
    except BoxError as error:
        say(f"! box {name} is there but not well, so it is made anew: {error.what}")
        return None
    return box


def _links(plan: Plan) -> dict[str, Path]:
    return {link.name: link.readlink() for link in plan.bin.iterdir()}


def _create(paths: Paths, name: str, binaries: Mapping[str, Path], *, mode: Mode, sim_config: str) -> Box:
    with locked(paths.locks / "boxes", waiting_for="another box to choose its subnets"):
        taken = [plan.index for plan in state.load_all(paths.boxes)]
        index = choose_index(taken, network.host_routes(), paths.boxes)
        plan = Plan(name=name, index=index, root=paths.boxes / name, mode=mode)
        state.save(plan)
    box = Box(plan)
    with step(f"box {name}: starting ({mode.value}, network {plan.link_network})"):
        _write_files(plan, binaries)
        spec = config.make_spec(plan, sim_config=sim_config)
        box.spec.write_text(spec.to_json())
        if mode is Mode.FULL:
            host.load_kernel_modules()
            state.make_folders(paths.boxes, config.MOUNT_POINTS)
            cgroups.create(plan.cgroup)
        _launch(box)
        network.connect(plan, _wait_for_init(box))
        _wait_ready(box, timeout_s=READY_TIMEOUT_S)
        box.was_ready.touch()
    return box


def _write_files(plan: Plan, binaries: Mapping[str, Path]) -> None:
    for folder in (plan.pki, plan.logs, plan.bin, plan.root / "cni"):
        folder.mkdir(parents=True, exist_ok=True)
    plan.pki.chmod(0o700)
    for name, program in binaries.items():
        (plan.bin / name).symlink_to(program)
    for name, data in pki.make_files(plan, now=dt.datetime.now(dt.UTC)).items():
        (plan.pki / name).write_bytes(data)
    for name, text in config.config_files(plan).items():
        (plan.root / name).write_text(text)
    plan.kubeconfig.touch(mode=0o600)
    plan.kubeconfig.write_bytes((plan.pki / "admin.kubeconfig").read_bytes())


def _launch(box: Box) -> None:
    """Start the init in a session of its own, so that the user's Ctrl-C reaches us and not the box.

    Not `ip netns exec`: that mounts a fresh /sys and hides the cgroups, and a named namespace is one more thing to leave behind.
    """
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv = [*unshare, "--propagation", "private", sys.executable, "-m", processes.INIT_MODULE, str(box.spec)]
    source = str(Path(__file__).resolve().parents[1])
    env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
    with (box.plan.logs / "init.log").open("wb") as log:
        # setsid --fork ends at once: the box has no parent here that would have to collect it.
        subprocess.run(
            ["setsid", "--fork", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/", check=True
        )


def _wait_for_init(box: Box) -> int:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        pid = processes.init_pid(box.spec)
        if pid is not None:
            return pid
        time.sleep(0.02)
    raise BoxError(f"the init of box {box.name} does not start:\n{box.log('init')}", do="mend what it says, run again")


def _wait_ready(box: Box, *, timeout_s: float) -> None:
    """Until every daemon is ready and, in a full box, the node is Ready. A daemon that dies is an error at once."""
    deadline = time.monotonic() + timeout_s
    wanted = {daemon.name for daemon in config.daemons(box.plan)}
    while True:
        status = box.status()
        _raise_if_dead(box, status)
        waiting = wanted - {name for name, daemon in status.daemons.items() if daemon.ready}
        if not waiting and (box.plan.mode is not Mode.FULL or _node_is_ready(box)):
            return
        if time.monotonic() > deadline:
            late = sorted(waiting) or ["kubelet"]
            logs = "\n".join(f"  {name}:\n{box.log(name)}" for name in late)
            raise BoxError(f"box {box.name}: not ready after {timeout_s:.0f} s: {', '.join(late)}\n{logs}")
        time.sleep(POLL_S)


def _raise_if_dead(box: Box, status: Status) -> None:
    if status.failed or processes.init_pid(box.spec) is None:
        why = status.failed or "its init ended"
        raise BoxError(f"box {box.name}: {why}\n{box.log('init')}", do="mend what it says, run again")
    for name, daemon in status.daemons.items():
        if daemon.deaths and not daemon.ready:
            raise BoxError(
                f"box {box.name}: {name} ended with status {daemon.exit}; the end of its log:\n{box.log(name)}",
                do="mend what it says, run again",
            )


def _node_is_ready(box: Box) -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    try:
        return box.kubectl("get", "node", NODE_NAME, "-o", path) == "True"
    except BoxError:
        return False


def down(paths: Paths, name: str) -> bool:
    """Remove a box and every trace of it, whatever state it is in; whether there was one."""
    host.require_root()
    check_name(name)
    with locked(paths.locks / f"box-{name}", waiting_for=f"another command on box {name}"):
        return _remove(paths, name)


def _remove(paths: Paths, name: str) -> bool:
    root = paths.boxes / name
    plan = state.load(paths.boxes, name) or Plan(name=name, index=-1, root=root)
    processes.kill_all(Box(plan).spec)
    if plan.index >= 0:
        network.disconnect(plan)
    cgroups.remove(plan.cgroup)
    existed = root.exists()
    with locked(paths.locks / "boxes", waiting_for="another box"):
        state.forget(plan, paths.boxes)
    return existed
