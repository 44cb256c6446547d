"""Status of a VGPUPool: what its nodes have, and what is taken of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mica_api.models import VGPUNode
from mica_api.models.common import WantedCondition
from mica_api.models.vgpu_pool import Amounts, PoolSummary
from mica_api.request import MIB_PER_GIB
from mica_api.sharing import Sharing
from mica_operator.core.words import counted


@dataclass(frozen=True, slots=True)
class NodeTotals:
    """One node's part of a pool. Capacity counts healthy GPUs only; a lost card cannot be given out."""

    name: str
    pool: str
    uuids: frozenset[str]
    unhealthy: int
    cordoned: int
    capacity: Amounts
    allocated: Amounts
    ready: bool

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return len(self.uuids)


@dataclass(frozen=True, slots=True)
class WantedPoolStatus:
    """Status without times."""

    nodes: int
    gpus: int
    cordoned: int
    capacity: Amounts
    allocated: Amounts
    summary: PoolSummary
    conditions: tuple[WantedCondition, ...]


def node_totals(node: VGPUNode) -> NodeTotals:
    """Sums of one inventory."""
    spec = node.spec
    sharing = Sharing(spec.max_slices_per_gpu, spec.memory_overcommit_percent, spec.cores_overcommit_percent)
    healthy = [g for g in spec.gpus if g.health == "Healthy"]
    capacity = [sharing.capacity(g.memory_mib, exclusive=g.mode == "Exclusive") for g in healthy]
    held = [gpu for slice_ in (node.status.slices or ()) for gpu in slice_.gpus] if node.status else []
    ready = [c.status for c in (node.status.conditions or ()) if c.type == "Ready"] if node.status else []
    return NodeTotals(
        name=node.metadata.name,
        pool=spec.pool,
        uuids=frozenset(g.uuid for g in spec.gpus),
        unhealthy=len(spec.gpus) - len(healthy),
        cordoned=sum(g.cordoned for g in spec.gpus),
        capacity=Amounts(
            slices=sum(c.slices for c in capacity),
            cores=sum(c.cores for c in capacity),
            memory_mib=sum(c.memory_mib for c in capacity),
        ),
        allocated=Amounts(slices=len(held), cores=sum(g.cores for g in held), memory_mib=sum(g.memory_mib for g in held)),
        # An agent that says nothing about itself (a simulated node) is taken at its inventory's word.
        ready="False" not in ready,
    )


def pool_status(pool: str, nodes: Iterable[NodeTotals], *, named: Iterable[str] = ()) -> WantedPoolStatus:
    """Status of the pool of that name; ``named`` are the UUIDs in its ``spec.gpus``."""
    members = [n for n in nodes if n.pool == pool]
    capacity, allocated = _sum([n.capacity for n in members]), _sum([n.allocated for n in members])
    return WantedPoolStatus(
        nodes=len(members),
        gpus=sum(n.gpus for n in members),
        cordoned=sum(n.cordoned for n in members),
        capacity=capacity,
        allocated=allocated,
        summary=PoolSummary(
            slices=f"{allocated.slices}/{capacity.slices}",
            cores=f"{allocated.cores}/{capacity.cores} %",
            memory=f"{_gib(allocated.memory_mib)}/{_gib(capacity.memory_mib)} GiB",
        ),
        conditions=(_ready(members), _found(named, members)),
    )


def _found(named: Iterable[str], members: Sequence[NodeTotals]) -> WantedCondition:
    """Whether every GPU that the pool says something about is in it: a typing error would otherwise just do nothing."""
    there = frozenset[str]().union(*(n.uuids for n in members))
    strange = sorted(set(named) - there)
    if not strange:
        return WantedCondition("GPUsFound", "True", "AllFound")
    words = f"spec.gpus names GPUs that no node of this pool has: {_some(strange)}; write UUIDs as VGPUNode lists them"
    return WantedCondition("GPUsFound", "False", "UnknownGPU", words)


def _ready(members: Sequence[NodeTotals]) -> WantedCondition:
    if not members:
        why = "none matches spec.nodeSelector, or a more specific or older pool has it"
        return WantedCondition("Ready", "False", "NoNodes", f"no node with GPUs belongs to this pool: {why}")
    down = sorted(n.name for n in members if not n.ready)
    sick = sum(n.unhealthy for n in members)
    if len(down) == len(members):
        return WantedCondition("Ready", "False", "NodesNotReady", f"not ready: {_some(down)}")
    if down or sick:
        parts = [f"not ready: {_some(down)}"] if down else []
        parts += [f"{counted(sick, 'GPU', 'are')} unhealthy"] if sick else []
        return WantedCondition("Ready", "True", "Degraded", "; ".join(parts))
    return WantedCondition("Ready", "True", "Ready", f"{counted(len(members), 'node', 'are')} ready")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _sum(amounts: Sequence[Amounts]) -> Amounts:
    return Amounts(
        slices=sum(a.slices for a in amounts),
        cores=sum(a.cores for a in amounts),
        memory_mib=sum(a.memory_mib for a in amounts),
    )


def _gib(mib: int) -> str:
    return f"{mib / MIB_PER_GIB:.1f}".removesuffix(".0")
