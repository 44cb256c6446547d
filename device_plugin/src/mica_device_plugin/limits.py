"""The limits file, version 1: text that limiter, arbiter and gpu-monitor read. Pure; who writes it where is ``slices``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mica_api.allocation import GPUShare
from mica_api.compute import DEFAULT_COMPUTE, Compute
from mica_device_plugin.values import SliceOwner

DRIVER_IN_CONTAINER: Final = "/usr/lib/mica/driver/libcuda.so.1"
# The limiter looks for the real NVML beside the driver.
NVML_IN_CONTAINER: Final = "/usr/lib/mica/driver/libnvidia-ml.so.1"
_VERSION: Final = 1
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use. ``shares`` are in the CUDA order of their cards inside it.

    ``compute``: how its slices share the time of their cards. ``oversubscribe``: what does not fit on a full card may live on the
    host. ``driver``: the real driver, as the container sees it; None: the limiter looks for it in the usual places.
    """

    owner: SliceOwner
    shares: tuple[GPUShare, ...]
    compute: Compute = DEFAULT_COMPUTE
    oversubscribe: bool = False
    driver: str | None = DRIVER_IN_CONTAINER


def render_limits(limits: Limits, *, generation: int) -> bytes:
    """Text of the file."""
    lines = [
        f"version={_VERSION}",
        f"generation={generation}",
        "mode=enforce",
        f"pod={limits.owner.pod_uid}",
        f"container={limits.owner.container}",
        *([f"driver={limits.driver}"] if limits.driver is not None else []),
        f"oversubscribe={'true' if limits.oversubscribe else 'false'}",
        f"gpus={len(limits.shares)}",
    ]
    for number, share in enumerate(limits.shares):
        lines += [f"gpu.{number}.{key}={value}" for key, value in _card(share, limits.compute)]
    return ("\n".join(lines) + "\n").encode()


def says_the_same(text: bytes, limits: Limits) -> bool:
    """Whether an existing file already says this, whatever its generation."""
    return text == render_limits(limits, generation=read_generation(text))


def read_owner(text: bytes) -> SliceOwner | None:
    """Whose limits these are, or None when the file is not one of ours."""
    values = _values(text)
    pod, container = values.get("pod", ""), values.get("container", "")
    return SliceOwner(pod, container) if pod and container else None


def read_generation(text: bytes) -> int:
    """Generation of an existing file, 0 when it has none."""
    value = _values(text).get("generation", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0


def _card(share: GPUShare, compute: Compute) -> Sequence[tuple[str, str | int]]:
    return (
        ("uuid", share.uuid),
        ("memory", share.memory_mib * _MIB),
        ("cores", share.cores),
        ("weight", compute.weight),
        ("policy", compute.policy),
        ("priority", compute.priority),
    )


def _values(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return {key: value for key, found, value in (line.partition("=") for line in lines if not line.startswith("#")) if found}
