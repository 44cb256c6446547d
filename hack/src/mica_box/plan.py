"""The address and name plan of a box: everything that must differ between two boxes follows from name and index. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mica_box.errors import BoxError

MAX_BOXES = 16
NODE_NAME = "node1"
API_PORT = 6443

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")


class Mode(Enum):
    """How much of a cluster a box runs."""

    FULL = "full"
    APISERVER_ONLY = "apiserver-only"


@dataclass(frozen=True)
class Plan:
    """Names, addresses and folders of one box. `index` is unique among the boxes of a machine."""

    name: str
    index: int
    root: Path
    mode: Mode = Mode.FULL

    @property
    def host_interface(self) -> str:
        return f"mica{self.index}"

    @property
    def link_network(self) -> str:
        """Network of the veth pair between host and box."""
        return f"10.243.{self.index}.0/24"

    @property
    def box_ip(self) -> str:
        return f"10.243.{self.index}.1"

    @property
    def host_ip(self) -> str:
        """The host as the box sees it: webhooks that run on the host listen here."""
        return f"10.243.{self.index}.254"

    @property
    def pod_network(self) -> str:
        """All pods of the box; the real node and kwok have one half of the lower half each."""
        return f"10.244.{self.index * 4}.0/22"

    @property
    def node_pod_network(self) -> str:
        return f"10.244.{self.index * 4}.0/24"

    @property
    def kwok_pod_network(self) -> str:
        return f"10.244.{self.index * 4 + 1}.0/24"

    @property
    def service_network(self) -> str:
        return f"10.245.{self.index * 4}.0/22"

    @property
    def service_ip(self) -> str:
        """ClusterIP of `kubernetes.default`."""
        return str(ipaddress.ip_network(self.service_network)[1])

    @property
    def server(self) -> str:
        return f"https://{self.box_ip}:{API_PORT}"

    @property
    def cgroup(self) -> str:
        """Root of this box's pods in every cgroup hierarchy: two kubelets on one root kill each other's pods."""
        return f"mica-box-{self.name}"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def bin(self) -> Path:
        """Links to the programs of this box; also the PATH of its daemons."""
        return self.root / "bin"

    @property
    def containerd_socket(self) -> Path:
        return self.root / "containerd.sock"

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.link_network, self.pod_network, self.service_network)


def check_name(name: str) -> str:
    """The name itself; raises when it cannot be part of file, link and cgroup names."""
    if not _NAME.fullmatch(name):
        raise BoxError(
            f"{name!r} is no name for a box",
            do="use 2 to 32 lower-case letters, digits and dashes, starting with a letter",
        )
    return name


def overlaps(network: str, routes: Iterable[str]) -> str | None:
    """The first of `routes` (CIDR or address; `default` is ignored) that shares addresses with `network`."""
    ours = ipaddress.IPv4Network(network)
    for route in routes:
        if route == "default":
            continue
        try:
            theirs = ipaddress.IPv4Network(route, strict=False)
        except ValueError:
            continue
        if theirs.prefixlen > 0 and ours.overlaps(theirs):
            return route
    return None


def choose_index(taken: Iterable[int], routes: Iterable[str], root: Path) -> int:
    """Lowest index that no other box has and whose networks the host does not route elsewhere.

    Raises BoxError naming a conflicting route when none is free.
    """
    used, routed = set(taken), list(routes)
    conflict = "all are taken by other boxes"
    for index in range(MAX_BOXES):
        if index in used:
            continue
        plan = Plan(name="any", index=index, root=root)
        clash = next((c for n in plan.networks if (c := overlaps(n, routed))), None)
        if clash is None:
            return index
        conflict = f"for instance {clash} is routed elsewhere on this host (see `ip route`)"
    raise BoxError(
        f"no free subnet for the box in 10.243.0.0/16, 10.244.0.0/16 and 10.245.0.0/16: {conflict}",
        do="take another box down (`python -m mica_box status` lists them), or remove the route, and run again",
    )
