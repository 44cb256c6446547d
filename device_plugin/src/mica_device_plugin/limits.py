"""The limits file, version 1: text that the limiter and gpu-monitor read. Pure; who writes it where is ``slices``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mica_api.allocation import GPUShare
from mica_device_plugin.values import SliceOwner

DRIVER_IN_CONTAINER: Final = "/usr/lib/mica/driver/libcuda.so.1"
# The limiter looks for the real NVML beside the driver.
NVML_IN_CONTAINER: Final = "/usr/lib/mica/driver/libnvidia-ml.so.1"
_VERSION: Final = 1
_MIB: Final = 2**20


def render_limits(
    *, owner: SliceOwner, shares: Sequence[GPUShare], order: Mapping[str, int], generation: int, oversubscribe: bool = False
) -> bytes:
    """Text of the file. ``order`` gives the CUDA order of the cards by UUID (their index on the node); ``oversubscribe``: what
    does not fit on a full card may live on the host."""
    lines = [
        f"version={_VERSION}",
        f"generation={generation}",
        "mode=enforce",
        f"pod={owner.pod_uid}",
        f"container={owner.container}",
        f"driver={DRIVER_IN_CONTAINER}",
        *(["oversubscribe=true"] if oversubscribe else []),
        f"gpus={len(shares)}",
    ]
    for number, share in enumerate(sorted(shares, key=lambda s: order[s.uuid])):
        lines += [
            f"gpu.{number}.uuid={share.uuid}",
            f"gpu.{number}.memory={share.memory_mib * _MIB}",
            f"gpu.{number}.cores={share.cores}",
        ]
    return ("\n".join(lines) + "\n").encode()


def read_owner(text: bytes) -> SliceOwner | None:
    """Whose limits these are, or None when the file is not one of ours."""
    values = _values(text)
    pod, container = values.get("pod", ""), values.get("container", "")
    return SliceOwner(pod, container) if pod and container else None


def read_generation(text: bytes) -> int:
    """Generation of an existing file, 0 when it has none."""
    value = _values(text).get("generation", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0


def _values(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return {key: value for key, found, value in (line.partition("=") for line in lines if not line.startswith("#")) if found}
