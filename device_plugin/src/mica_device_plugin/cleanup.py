"""What may be removed from the node. Pure and level-triggered: it looks at what is, not at what happened.

A slice is held as long as *anything* says that its container may be alive: the pod in the API, the kubelet's PodResources, or a
process that holds the usage region. A force-deleted pod whose container still computes therefore keeps its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mica_device_plugin.slices import OnDisk
from mica_device_plugin.values import Holder, SliceKey


@dataclass(frozen=True, slots=True)
class Evidence:
    """Signs of life, all of them fresh.

    ``pods``: uids in the API that are not finished. ``assigned``: the kubelet's device assignments. ``live``: slices with a
    running process. ``fresh``: slices that the kubelet asked for so recently that it may not list them yet.
    """

    pods: frozenset[str]
    assigned: Mapping[SliceKey, Holder]
    live: frozenset[SliceKey]
    fresh: frozenset[SliceKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Removal:
    """What to remove: first the slices (spec and directories), then the pins, and files that should have been pins."""

    slices: tuple[SliceKey, ...] = ()
    pins: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.slices or self.pins or self.damaged)


def plan_removal(disk: OnDisk, evidence: Evidence) -> Removal:
    """Everything on disk for which there is no sign of life."""
    keys = set(disk.slices) | disk.specs
    gone = {key for key in keys if not _slice_held(key, disk, evidence)}
    kept = keys - gone
    pins = (uid for uid, pin in disk.pins.items() if uid not in evidence.pods and not _pin_used(uid, pin.keys & kept, disk))
    damaged = (name for name in disk.damaged if name.removesuffix(".json") not in evidence.pods)
    return Removal(slices=tuple(sorted(gone)), pins=tuple(sorted(pins)), damaged=tuple(sorted(damaged)))


def _slice_held(key: SliceKey, disk: OnDisk, evidence: Evidence) -> bool:
    owner = disk.slices.get(key)
    if key in evidence.live:
        return True
    if owner is None:
        return key in evidence.fresh or key in evidence.assigned
    if owner.pod_uid in evidence.pods:
        return True
    holder = evidence.assigned.get(key)
    pin = disk.pins.get(owner.pod_uid)
    if holder is None or pin is None:
        return False
    return holder == Holder(pin.namespace, pin.pod, owner.container)


def _pin_used(uid: str, kept: frozenset[SliceKey], disk: OnDisk) -> bool:
    owners = (disk.slices.get(key) for key in kept)
    return any(owner is not None and owner.pod_uid == uid for owner in owners)
