"""Which container an id set belongs to, from what the kubelet says. Pure.

PodResources names the pod but gives no uid; the checkpoint gives uids but keeps dead pods. Together they name one incarnation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mica_device_plugin.kubelet_state import CheckpointEntry
from mica_device_plugin.values import Holder, PodView, SliceKey
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


@dataclass(frozen=True, slots=True)
class Unlisted:
    """The checkpoint alone knows the slots: an init container's, a dead pod's, or those of a pod that is not listed yet."""

    entries: tuple[CheckpointEntry, ...]


def identify(
    key: SliceKey, assigned: Mapping[SliceKey, Holder], checkpoint: Sequence[CheckpointEntry] | None
) -> Claim | Unlisted | NotYet:
    """Find the container that holds ``key``; ``checkpoint`` is None when it could not be read."""
    holder = assigned.get(key)
    entries = [e for e in checkpoint or () if e.key == key]
    if holder is None and entries:
        return Unlisted(tuple(entries))
    if holder is None:
        return NotYet("the kubelet lists no container that holds these slots")
    if checkpoint is None:
        return Claim(holder, None, {})
    mine = [e for e in entries if e.container == holder.container]
    if not mine:
        return NotYet(f"the kubelet's checkpoint has no such slots for container {holder.container}")
    return Claim(holder, frozenset(e.pod_uid for e in mine), {e.pod_uid: e.host_paths for e in mine})


def judge_unlisted(found: Unlisted, pods: Iterable[PodView]) -> tuple[PodView, str, Refuse] | NotYet:
    """The pod that lives, its init container and why that must not start; NotYet when none of the entries is one."""
    alive = {pod.uid: pod for pod in pods if not pod.finished}
    for entry in reversed(found.entries):
        pod = alive.get(entry.pod_uid)
        if pod is None or any(entry.container == name for name, _ in pod.containers):
            continue
        words = f"container {entry.container}: slices on init containers are not supported; ask for them in app containers"
        return pod, entry.container, Refuse(Reason.INIT_CONTAINER, words)
    return NotYet("the kubelet lists no container that holds these slots")
