"""A box that runs, as its users see it: kubectl, bodies in and out, and the images it has. Starts and stops nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from mica_box.box import Box


@dataclass(frozen=True)
class RunningBox:
    """A box that was brought up. `images` maps names (`mica`, `kube-scheduler`, …) to references; empty when none are loaded."""

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
