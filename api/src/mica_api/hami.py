"""Annotations in which users of HAMi, Volcano vGPU and Flex:ai read back where their pod went, and their wire formats.

Written on the Binding for pods that came in one of these dialects, never read by Mica: our own decision is ``allocation``. Only
what is true at that moment and stays true is written. Left out are therefore the phases of a bind and the queue of devices still
to be allocated (nobody would ever move them on), and Flex:ai's list of devices, whose slot numbers Mica does not have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mica_api.allocation import GPUShare
from mica_api.dialects import FLEXAI, HAMI, VOLCANO

VENDOR: Final = "NVIDIA"
"""Device type in the lists: HAMi's and Volcano's word for the vendor, whatever the model."""
MAX_BYTES: Final = 16 * 1024
"""Values of all annotations of one pod together; a device list that does not fit is left out rather than cut."""
_NANOSECONDS: Final = 10**9


@dataclass(frozen=True, slots=True)
class Bound:
    """A decision as it is about to be written: shares by app container, behind ``init_containers`` that hold nothing."""

    node: str
    shares: Sequence[Sequence[GPUShare]]
    unix_seconds: int
    init_containers: int = 0


def dialects_of(original: str) -> frozenset[str]:
    """Names of the dialects that a pod was written in, from its original-resources annotation; empty when it is none of ours.

    The annotation may have been written by the pod's author: anything in it that is not understood is left out.
    """
    try:
        raw: Any = json.loads(original) if original else {}
    except (ValueError, RecursionError):
        return frozenset()
    resources = {key for limits in raw.values() if isinstance(limits, dict) for key in limits} if isinstance(raw, dict) else set()
    return frozenset(d.name for d in (HAMI, VOLCANO, FLEXAI) if any(d.owns(key) for key in resources))


def read_back(bound: Bound, dialects: frozenset[str]) -> dict[str, str]:
    """Annotations that users of these dialects look for, all of them together at most MAX_BYTES."""
    written: dict[str, str] = {}
    for dialect, write in _WRITERS:
        if dialect in dialects:
            written |= write(bound)
    lists = [key for key in (HAMI_DEVICES, VOLCANO_DEVICES) if key in written]
    for key in lists:
        if sum(len(value) for value in written.values()) > MAX_BYTES:
            del written[key]
    return written


HAMI_NODE: Final = "hami.io/vgpu-node"
HAMI_DEVICES: Final = "hami.io/vgpu-devices-allocated"
VOLCANO_DEVICES: Final = "volcano.sh/vgpu-ids-new"


def _hami(bound: Bound) -> dict[str, str]:
    return {
        HAMI_NODE: bound.node,
        "hami.io/vgpu-time": str(bound.unix_seconds),
        "hami.io/bind-time": str(bound.unix_seconds),
        HAMI_DEVICES: encode_devices((*((),) * bound.init_containers, *bound.shares)),
    }


def _volcano(bound: Bound) -> dict[str, str]:
    """Volcano counts app containers only, and writes no separator after the last."""
    return {
        "volcano.sh/vgpu-node": bound.node,
        "volcano.sh/vgpu-time": str(bound.unix_seconds),
        "volcano.sh/bind-time": str(bound.unix_seconds),
        VOLCANO_DEVICES: encode_devices(bound.shares).removesuffix(";"),
    }


def _flexai(bound: Bound) -> dict[str, str]:
    return {"huawei.com/vgpu-node": bound.node, "huawei.com/bind-time": str(bound.unix_seconds * _NANOSECONDS)}


_WRITERS: Final = ((HAMI.name, _hami), (VOLCANO.name, _volcano), (FLEXAI.name, _flexai))


def encode_devices(containers: Sequence[Sequence[GPUShare]]) -> str:
    """HAMi's list: ``UUID,NVIDIA,MiB,cores:`` per device and ``;`` after every container, an empty one being just ``;``."""
    return "".join(
        "".join(f"{share.uuid},{VENDOR},{share.memory_mib},{share.cores}:" for share in shares) + ";" for shares in containers
    )
