"""The node's CPU as the scheduler is told it: what pods without slices request, and when a change is worth a write. Pure.

The scheduler knows the CPU of pods on slices from the pods themselves; it uses the rest for scores only, so that a figure which
is a little old is no harm, and a write for every small pod that comes and goes would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mica_api.models.vgpu_node import NodeCPU
from mica_device_plugin.values import PodView

WRITE_EVERY_S: Final = 10.0
"""Writes for the sake of the CPU alone are at least this far apart."""
_SMALL_MILLI: Final = 100
_SMALL_PERCENT: Final = 1


def node_cpu(allocatable_milli: int | None, pods: Iterable[PodView]) -> NodeCPU | None:
    """CPU of the node and what unfinished pods without slices request of it; None when the node does not tell its own."""
    if allocatable_milli is None:
        return None
    requested = sum(pod.cpu_milli for pod in pods if not pod.labelled and not pod.finished)
    return NodeCPU(allocatable_milli=allocatable_milli, requested_milli=requested)


def worth_writing(before: NodeCPU | None, now: NodeCPU | None) -> bool:
    """Whether the figures differ by more than the greater of 1 % of the node and 0.1 core, or in what the node has."""
    if before is None or now is None or before.allocatable_milli != now.allocatable_milli:
        return before != now
    small = max(_SMALL_MILLI, now.allocatable_milli * _SMALL_PERCENT // 100)
    return abs(before.requested_milli - now.requested_milli) > small
