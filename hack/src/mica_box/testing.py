"""Boxes for pytest: what the fixtures in tests/integration and tests/e2e are made of. Imports no pytest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mica_box import binaries, box
from mica_box.box import Box
from mica_box.locks import shared
from mica_box.paths import Paths, paths_from
from mica_box.plan import Mode
from mica_box.simulated import default_sim_config
from mica_box.versions import load_versions


@dataclass(frozen=True)
class RunningBox:
    """A box as tests see it. `images` maps names (`mica`, `kube-scheduler`, …) to references; empty when none are loaded."""

    box: Box
    images: dict[str, str] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> str:
        """Path of the admin kubeconfig."""
        return str(self.box.kubeconfig)

    @property
    def host_ip(self) -> str:
        """Where a server that runs on this host must listen to be called by the API server."""
        return self.box.host_ip

    @property
    def environment(self) -> dict[str, str]:
        """Environment for programs that should talk to this box (`KUBECONFIG`, `PATH` with kubectl and helm)."""
        path = f"{self.box.plan.bin}:{os.environ.get('PATH', '')}"
        return {**os.environ, "KUBECONFIG": self.kubeconfig, "PATH": path}

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """kubectl's stdout; raises BoxError with kubectl's own words when it fails."""
        return self.box.kubectl(*args, stdin=stdin)

    def get(self, *args: str) -> dict[str, Any]:
        """`kubectl get … -o json`, parsed."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *args, "-o", "json"))
        return found

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply Kubernetes bodies."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _load_images(paths: Paths, the_box: Box) -> dict[str, str]:
    from mica_box.images import catalogue

    return catalogue.load(paths, load_versions(paths.hack / "versions.toml"), the_box)


@contextmanager
def running_box(name: str, *, mode: Mode, load_images: bool = False) -> Iterator[RunningBox]:
    """A box for the length of the block. `MICA_KEEP_BOX=1` leaves it running for the next session.

    Sessions that run at the same time share it; it goes with the last of them.
    """
    paths = paths_from(os.environ)
    programs = binaries.ensure(paths, load_versions(paths.hack / "versions.toml"))

    def end() -> None:
        if os.environ.get("MICA_KEEP_BOX") != "1":
            box.down(paths, name)

    with shared(paths.locks / f"users-{name}", last_one=end):
        the_box = box.up(paths, name, programs, mode=mode, sim_config=default_sim_config())
        yield RunningBox(the_box, _load_images(paths, the_box) if load_images else {})
