"""Which container an id set belongs to, from what the kubelet says. Pure.

PodResources names the pod but gives no uid; the checkpoint gives uids but keeps dead pods. Together they name one incarnation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mica_device_plugin.kubelet_state import CheckpointEntry
from mica_device_plugin.values import Holder, SliceKey
from mica_device_plugin.verify import Reason, Refuse


@dataclass(frozen=True, slots=True)
class Claim:
    """The container that is about to start.

    ``uids``: pod uids that the checkpoint allows (None: it could not be read, any uid is allowed).
    ``host_paths``: mounts that Allocate once answered with for it, by uid.
    """

    holder: Holder
    uids: frozenset[str] | None
    host_paths: Mapping[str, tuple[str, ...]]

    def allows(self, pod_uid: str) -> bool:
        """Whether this incarnation of the pod may be the one that starts."""
        return self.uids is None or pod_uid in self.uids


@dataclass(frozen=True, slots=True)
class NotYet:
    """It cannot be told now; the kubelet asks again."""

    message: str


def identify(
    key: SliceKey, assigned: Mapping[SliceKey, Holder], checkpoint: Sequence[CheckpointEntry] | None
) -> Claim | Refuse | NotYet:
    """Find the container that holds ``key``; ``checkpoint`` is None when it could not be read."""
    holder = assigned.get(key)
    entries = [e for e in checkpoint or () if e.key == key]
    if holder is None and entries:
        return Refuse(
            Reason.INIT_CONTAINER,
            f"container {entries[-1].container}: slices on init containers are not supported; ask for them in app containers",
        )
    if holder is None:
        return NotYet("the kubelet lists no container that holds these slots")
    if checkpoint is None:
        return Claim(holder, None, {})
    mine = [e for e in entries if e.container == holder.container]
    if not mine:
        return NotYet(f"the kubelet's checkpoint has no such slots for container {holder.container}")
    return Claim(holder, frozenset(e.pod_uid for e in mine), {e.pod_uid: e.host_paths for e in mine})
