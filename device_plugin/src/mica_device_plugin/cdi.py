"""What a slice looks like to the container runtime: the mounts of Allocate and the CDI spec of PreStartContainer.

Pure. Our specs hold no hooks: a hook runs as root on the host with an environment the image can influence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mica_api import names
from mica_device_plugin.limits import DRIVER_IN_CONTAINER, NVML_IN_CONTAINER
from mica_device_plugin.values import SliceKey

_CDI_VERSION: Final = "0.6.0"
_DRIVER_VERSION: Final = re.compile(r"[0-9]{1,8}(\.[0-9]{1,8}){1,3}")
# They could keep the limiter out. Admission refuses them in a pod, but cannot see envFrom, a ConfigMap's content or the image.
_EMPTIED: Final = ("LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES")
_SIM_DIR_IN_CONTAINER: Final = "/run/mica/sim"


@dataclass(frozen=True, slots=True)
class Bind:
    """One bind mount."""

    host: Path
    container: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Edits:
    """What the driver adds to a container."""

    mounts: tuple[Bind, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def cdi_name(key: SliceKey) -> str:
    """Fully qualified device name that Allocate answers with."""
    return f"{names.CDI_KIND}={key}"


def allocate_binds(*, library: Path, limits: Path, region: Path, arbiter: Path, library_dir: Path) -> tuple[Bind, ...]:
    """Mounts of the limiter: they are there even if no spec of ours ever comes, so that the container fails closed.

    ``library`` is the installed version on the host, ``library_dir`` the library directory inside the container,
    ``arbiter`` the directory of the node page (the directory, so that a page that is made anew is seen). ``region`` is the file,
    not its directory: a container can write to it and must not make others there.
    """
    limiter, front, monitor = library / "libmica.so", library / "libmica-nvml.so", library / "gpu-monitor"
    return (
        Bind(library / "ld.so.preload", "/etc/ld.so.preload"),
        Bind(limiter, "/usr/lib/mica/libmica.so"),
        Bind(limiter, f"{library_dir}/libcuda.so.1"),
        Bind(front, f"{library_dir}/libnvidia-ml.so.1"),
        Bind(monitor, "/usr/bin/gpu-monitor"),
        Bind(monitor, "/opt/xpu/bin/gpu-monitor"),
        Bind(limits, "/run/mica/limits"),
        Bind(region, "/run/mica/usage/region", read_only=False),
        Bind(arbiter, "/run/mica/node"),
    )


def simulated_edits(
    *, uuids: Sequence[str], driver: Path, library: Path, sim_dir: Path, library_dir: Path, driver_version: str
) -> Edits:
    """Driver of simulated cards: ``driver`` is the installed version of the two libraries, ``sim_dir`` their shared state."""
    ours = (("libmica.so", "libcuda.so"), ("libmica-nvml.so", "libnvidia-ml.so"))
    versioned = ours if _DRIVER_VERSION.fullmatch(driver_version) else ()
    return Edits(
        mounts=(
            Bind(driver / "libcuda.so.1", DRIVER_IN_CONTAINER),
            Bind(driver / "libnvidia-ml.so.1", NVML_IN_CONTAINER),
            *(Bind(library / file, f"{library_dir}/{name}.{driver_version}") for file, name in versioned),
            Bind(sim_dir, _SIM_DIR_IN_CONTAINER, read_only=False),
        ),
        env=(("MICA_SIM_VISIBLE", ",".join(uuids)), ("NVIDIA_VISIBLE_DEVICES", "void")),
    )


def render_spec(key: SliceKey, edits: Edits) -> bytes:
    """The CDI spec of one slice."""
    env = [*((name, "") for name in _EMPTIED), *edits.env]
    container: dict[str, Any] = {"env": [f"{name}={value}" for name, value in env]}
    if edits.mounts:
        container["mounts"] = [_mount(bind) for bind in edits.mounts]
    spec = {"cdiVersion": _CDI_VERSION, "kind": names.CDI_KIND, "devices": [{"name": key, "containerEdits": container}]}
    return (json.dumps(spec, indent=1) + "\n").encode()


def _mount(bind: Bind) -> dict[str, Any]:
    access = "ro" if bind.read_only else "rw"
    return {
        "hostPath": str(bind.host),
        "containerPath": bind.container,
        "options": [access, "nosuid", "nodev", "bind"],
    }
