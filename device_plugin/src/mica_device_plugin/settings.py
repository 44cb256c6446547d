"""Settings of the node agent and the host paths that follow from them. See the README for what each one means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mica_runtime.settings import Settings


class AgentSettings(Settings):
    """Read from ``MICA_*`` variables."""

    node_name: Annotated[str, Field(min_length=1)]
    lib_dir: Path = Path("/opt/mica/lib")
    simulated: bool = False
    sim_lib_dir: Path = Path("/opt/mica/sim")
    sim_dir: Path = Path("/run/mica/sim")
    sim_config: Path | None = None
    host_run: Path = Path("/run/mica")
    host_lib: Path = Path("/var/lib/mica")
    cdi_dir: Path = Path("/var/run/cdi")
    kubelet_dir: Path = Path("/var/lib/kubelet")
    library_dir: Path = Path("/usr/lib/x86_64-linux-gnu")
    kubeconfig: Path | None = None
    admin_host: str = "0.0.0.0"
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 8080

    def layout(self) -> Layout:
        """Host paths."""
        return Layout(run=self.host_run, lib=self.host_lib, cdi=self.cdi_dir, kubelet=self.kubelet_dir)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are on the host."""

    run: Path
    lib: Path
    cdi: Path
    kubelet: Path

    @property
    def slices(self) -> Path:
        """One directory per id set."""
        return self.run / "slices"

    def limits_dir(self, key: str) -> Path:
        """Mounted read-only into the container."""
        return self.slices / key / "limits"

    def limits_file(self, key: str) -> Path:
        """The limits of one container."""
        return self.limits_dir(key) / "limits"

    def usage_dir(self, key: str) -> Path:
        """Holds the usage region; not mounted."""
        return self.slices / key / "usage"

    def region_file(self, key: str) -> Path:
        """The usage region of one container; mounted writable into it."""
        return self.usage_dir(key) / "region"

    @property
    def arbiter_dir(self) -> Path:
        """Holds the node page that the arbiter writes; mounted read-only into every container on a slice."""
        return self.run / "node"

    def cdi_file(self, key: str) -> Path:
        """The CDI spec of one container."""
        return self.cdi / f"mica-{key}.json"

    @property
    def pins(self) -> Path:
        """Decisions pinned at their first verification."""
        return self.lib / "pins"

    def pin_file(self, pod_uid: str) -> Path:
        """The pinned decision of one pod."""
        return self.pins / f"{pod_uid}.json"

    @property
    def node_file(self) -> Path:
        """What the agent last knew about its node, for a start without API server."""
        return self.lib / "node.json"

    @property
    def copied_config(self) -> Path:
        """The simulator's configuration as last copied from the settings."""
        return self.lib / "sim-config"

    @property
    def device_plugins(self) -> Path:
        """Directory of device plugin sockets."""
        return self.kubelet / "device-plugins"

    @property
    def checkpoint(self) -> Path:
        """The kubelet's record of device assignments."""
        return self.device_plugins / "kubelet_internal_checkpoint"

    @property
    def pod_resources_socket(self) -> Path:
        """The kubelet's PodResources service."""
        return self.kubelet / "pod-resources" / "kubelet.sock"
