"""What the init of a box is told: a value that travels as one JSON file from the host into the box."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Probe:
    """How to see that a daemon works: an HTTP(S) GET answered 200, or a socket that accepts."""

    url: str = ""
    socket: str = ""


@dataclass(frozen=True)
class Daemon:
    """One program of the box. It starts when everything in `after` is ready."""

    name: str
    argv: tuple[str, ...]
    probe: Probe
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """Network, mounts, files and daemons, in the order in which the init applies them."""

    interface: str
    address: str
    gateway: str
    pki: str
    logs: str
    status: str
    path: str
    daemons: tuple[Daemon, ...]
    tmpfs: tuple[str, ...] = ()
    binds: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    world_writable: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    pinned_sysctls: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Spec:
        """Inverse of `to_json`."""
        data = json.loads(text)
        daemons = tuple(Daemon(d["name"], tuple(d["argv"]), Probe(**d["probe"]), tuple(d["after"])) for d in data["daemons"])
        binds = tuple((source, target) for source, target in data["binds"])
        tuples = {name: tuple(data[name]) for name in ("tmpfs", "folders", "world_writable")}
        return Spec(**{**data, **tuples, "daemons": daemons, "binds": binds})


@dataclass(frozen=True)
class DaemonStatus:
    """What the init says about one daemon. `exit` is the last exit status, None while it never ended.

    `pid` is in the box's own pid namespace, 0 while the daemon is down.
    """

    pid: int
    ready: bool
    deaths: int
    exit: int | None


@dataclass(frozen=True)
class Status:
    """What the init of a box says about itself."""

    daemons: dict[str, DaemonStatus]
    failed: str = ""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Status:
        """Inverse of `to_json`."""
        data = json.loads(text)
        return Status({name: DaemonStatus(**value) for name, value in data["daemons"].items()}, data["failed"])
