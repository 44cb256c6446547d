"""The device lists that the kubelet is told, one per resource. Pure.

Slots are GPU-neutral: the kubelet picks ids by itself, so an id that named a card would contradict the decision. A sick card has
no slot of its own; as many slots as it could carry are reported unhealthy, those of its own containers first, then free ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mica_api import names
from mica_api.request import MAX_CORES, MIB_PER_GIB
from mica_device_plugin.values import GPUDevice, Pin


@dataclass(frozen=True, slots=True)
class Device:
    """One device id and whether the kubelet may hand it out."""

    id: str
    healthy: bool


DeviceLists = dict[str, tuple[Device, ...]]
NOTHING: Final[DeviceLists] = dict.fromkeys(names.RESOURCES, ())


def device_lists(gpus: Iterable[GPUDevice], *, max_slices: int | None, pins: Iterable[Pin]) -> DeviceLists:
    """Devices by resource name; nothing at all when no pool selects the node (``max_slices`` is None)."""
    if max_slices is None:
        return dict(NOTHING)
    cards = list(gpus)
    sick = [gpu for gpu in cards if not gpu.healthy]
    return {
        names.RESOURCE_NUMBER: _slots(len(cards) * max_slices, len(sick) * max_slices, _bound(pins, {g.uuid for g in sick})),
        names.RESOURCE_CORES: _amount("core", MAX_CORES * len(cards), MAX_CORES * len(sick)),
        names.RESOURCE_MEMORY: _amount("gib", _gib(cards), _gib(sick)),
    }


def _slots(total: int, unhealthy: int, bound: tuple[set[str], set[str]]) -> tuple[Device, ...]:
    on_sick, elsewhere = bound
    ids = [f"slot-{number}" for number in range(total)]
    candidates = [i for i in ids if i in on_sick] + [i for i in reversed(ids) if i not in on_sick and i not in elsewhere]
    marked = set(candidates[:unhealthy])
    return tuple(Device(i, i not in marked) for i in ids)


def _bound(pins: Iterable[Pin], sick: set[str]) -> tuple[set[str], set[str]]:
    on_sick: set[str] = set()
    elsewhere: set[str] = set()
    for container in (c for pin in pins for c in pin.containers):
        touched = any(share.uuid in sick for share in container.shares)
        (on_sick if touched else elsewhere).update(container.slots)
    return on_sick, elsewhere


def _amount(prefix: str, total: int, unhealthy: int) -> tuple[Device, ...]:
    return tuple(Device(f"{prefix}-{number}", number < total - unhealthy) for number in range(total))


def _gib(gpus: Iterable[GPUDevice]) -> int:
    return sum(gpu.memory_mib // MIB_PER_GIB for gpu in gpus)
