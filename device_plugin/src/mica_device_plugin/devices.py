"""The device lists that the kubelet is told, one per resource. Pure.

Slots are GPU-neutral: the kubelet picks ids by itself, so an id that named a card would contradict the decision. A sick card has
no slot of its own; as many slots as it could carry are reported unhealthy, those of its own containers first, then free ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mica_api import names
from mica_api.request import MIB_PER_GIB
from mica_api.sharing import CardCapacity
from mica_device_plugin.values import GPUDevice, Pin, PoolChoice


@dataclass(frozen=True, slots=True)
class Device:
    """One device id and whether the kubelet may hand it out."""

    id: str
    healthy: bool


DeviceLists = dict[str, tuple[Device, ...]]
NOTHING: Final[DeviceLists] = dict.fromkeys(names.RESOURCES, ())


def device_lists(gpus: Iterable[GPUDevice], *, pool: PoolChoice | None, pins: Iterable[Pin]) -> DeviceLists:
    """Devices by resource name, as many as the pool lets be given out; nothing at all when no pool selects the node.

    The sums are what kube-scheduler sieves nodes by. A pod of n GPUs counts n slots, but the cores and memory of one of them,
    because that is what users write: the sieve may let through what the extender refuses, never the other way round.
    """
    if pool is None:
        return dict(NOTHING)
    cards = list(gpus)
    every = [pool.capacity(gpu) for gpu in cards]
    sick = [pool.capacity(gpu) for gpu in cards if not gpu.healthy]
    bound = _bound(pins, {gpu.uuid for gpu in cards if not gpu.healthy})
    return {
        names.RESOURCE_NUMBER: _slots(sum(c.slices for c in every), sum(c.slices for c in sick), bound),
        names.RESOURCE_CORES: _amount("core", sum(c.cores for c in every), sum(c.cores for c in sick)),
        names.RESOURCE_MEMORY: _amount("gib", _gib(every), _gib(sick)),
    }


def _slots(total: int, unhealthy: int, bound: tuple[set[str], set[str]]) -> tuple[Device, ...]:
    on_sick, elsewhere = bound
    ids = _slot_ids(total, on_sick | elsewhere)
    candidates = [i for i in ids if i in on_sick] + [i for i in reversed(ids) if i not in on_sick and i not in elsewhere]
    marked = set(candidates[:unhealthy])
    return tuple(Device(i, i not in marked) for i in ids)


def _slot_ids(total: int, held: set[str]) -> list[str]:
    """``total`` ids, of which the held ones come first.

    A pool that is made smaller must not take away ids that containers hold: after its restart the kubelet fails pods whose
    devices are gone.
    """
    ids = [f"slot-{number}" for number in range(total)]
    beyond = sorted(held.difference(ids), key=lambda i: (len(i), i))
    free = [i for i in ids if i not in held]
    dropped = set(free[max(0, len(free) - len(beyond)) :]) if beyond else set()
    return [i for i in ids if i not in dropped] + beyond


def _bound(pins: Iterable[Pin], sick: set[str]) -> tuple[set[str], set[str]]:
    on_sick: set[str] = set()
    elsewhere: set[str] = set()
    for container in (c for pin in pins for c in pin.containers):
        touched = any(share.uuid in sick for share in container.shares)
        (on_sick if touched else elsewhere).update(container.slots)
    return on_sick, elsewhere


def _amount(prefix: str, total: int, unhealthy: int) -> tuple[Device, ...]:
    return tuple(Device(f"{prefix}-{number}", number < total - unhealthy) for number in range(total))


def _gib(cards: Iterable[CardCapacity]) -> int:
    return sum(card.memory_mib // MIB_PER_GIB for card in cards)
