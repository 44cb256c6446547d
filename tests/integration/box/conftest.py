"""Boxes that these tests may break, and what must be the same before and after them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mica_box import binaries, box, cgroups, network, state
from mica_box.box import Box
from mica_box.paths import Paths, paths_from
from mica_box.plan import Mode
from mica_box.processes import members
from mica_box.simulated import default_sim_config
from mica_box.versions import Versions, load_versions

WATCHED = ("/var/lib/kubelet", "/var/lib/mica", "/var/lib/cni", "/run/mica", "/run/cdi", "/run/netns", "/etc/cni")
WATCHED += ("/opt/containerd", "/var/log/pods", "/var/log/containers", "/run/containerd")
SYSCTLS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


@dataclass(frozen=True)
class Traces:
    """What a box called `name` could leave on this host; other boxes of the machine are not in it."""

    processes: tuple[int, ...]
    mounts: tuple[str, ...]
    links: tuple[str, ...]
    routes: tuple[str, ...]
    cgroups: tuple[str, ...]
    files: tuple[str, ...]
    sysctls: tuple[str, ...]


def _links(others: set[str]) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in Path("/sys/class/net").iterdir() if entry.name not in others))


def traces(paths: Paths, name: str) -> Traces:
    """Look at the host now."""
    others = [plan for plan in state.load_all(paths.boxes) if plan.name != name]
    other_networks = {network for plan in others for network in plan.networks}
    folder = paths.boxes / name
    watched = () if others else WATCHED
    return Traces(
        processes=tuple(members(folder / "spec.json")),
        mounts=tuple(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        links=_links({plan.host_interface for plan in others}),
        routes=tuple(sorted(set(network.host_routes()) - other_networks)),
        cgroups=tuple(str(root / f"mica-box-{name}") for root in cgroups.hierarchies() if (root / f"mica-box-{name}").exists()),
        files=tuple(path for path in (str(folder), *watched) if Path(path).exists()),
        sysctls=tuple(Path("/proc/sys", key).read_text() for key in SYSCTLS),
    )


@dataclass(frozen=True)
class Workshop:
    """Makes boxes, in this process or by the command line, and looks for their traces."""

    paths: Paths
    versions: Versions
    programs: dict[str, Path]

    def up(self, name: str, mode: Mode = Mode.APISERVER_ONLY) -> Box:
        return box.up(self.paths, name, self.programs, mode=mode, sim_config=default_sim_config())

    def down(self, name: str) -> bool:
        return box.down(self.paths, name)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "mica_box", *words]

    def run(self, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": path} if path else None
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, env=env)

    def traces(self, name: str) -> Traces:
        return traces(self.paths, name)


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    paths = paths_from(os.environ)
    versions = load_versions(paths.hack / "versions.toml")
    return Workshop(paths, versions, binaries.ensure(paths, versions))


@pytest.fixture
def spare_name(workshop: Workshop) -> Iterator[Callable[[], str]]:
    """Names of boxes that are gone after the test, whatever it did to them."""
    used: list[str] = []

    def fresh() -> str:
        used.append(f"mica-spare{len(used)}")
        workshop.down(used[-1])
        return used[-1]

    yield fresh
    for name in used:
        workshop.down(name)
