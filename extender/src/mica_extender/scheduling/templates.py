"""What a node that does not exist yet would be: for autoscalers, which ask filter about nodes that they could add.

A pure function of the Node object and the pools; nothing is remembered and nothing counts as capacity. The node's own allocatable
amounts say most (an autoscaler copies them from a node of the same group), the pool's template says what they cannot (the model,
memory to the MiB) and all of it when the group has no node to copy from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from mica_api import names
from mica_api.models.vgpu_pool import VGPUPool
from mica_api.policies import check_card_policy, parse_node_policy
from mica_api.pools import resolve_pool
from mica_api.request import MIB_PER_GIB, InvalidRequest, parse_count
from mica_api.sharing import NO_OVERCOMMIT, Sharing
from mica_extender.placement import Card, NodeState

MODEL_LABEL: Final = "nvidia.com/gpu.product"
"""Where GPU feature discovery and the node groups of cloud providers write the model."""


class _Meta(msgspec.Struct):
    name: str = ""
    labels: dict[str, str] | None = None


class _Status(msgspec.Struct):
    allocatable: dict[str, str | int] | None = None


class _Node(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    status: _Status = msgspec.field(default_factory=_Status)


_decode: Final = msgspec.json.Decoder(_Node).decode


@dataclass(frozen=True, slots=True)
class NodeObject:
    """The part of a Node that says what it would be."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _GPUs:
    """So many equal GPUs."""

    count: int
    model: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Templates:
    """The verbs' view of nodes that are not in the ledger. ``pools`` is the watch's copy, by name."""

    pools: Mapping[str, VGPUPool]

    def __call__(self, raw: bytes) -> NodeState | None:
        """See ``template_state``; None also for what is no Node."""
        try:
            node = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        allocatable = {key: str(value) for key, value in (node.status.allocatable or {}).items()}
        return template_state(NodeObject(node.metadata.name, node.metadata.labels or {}, allocatable), self.pools)


def template_state(node: NodeObject, pools: Mapping[str, VGPUPool]) -> NodeState | None:
    """The node as it would be once its agent has reported it, with nothing on it; None when nobody can tell.

    That is: no pool would take it, or neither its allocatable amounts nor the pool's template say which GPUs it has.
    """
    pool = resolve_pool(node.labels, pools.values())
    if pool is None:
        return None
    gpus = _from_allocatable(node, pool) or _from_pool(pool)
    if gpus is None:
        return None
    spec = pool.spec
    sharing, exclusive = _sharing(pool), spec.mode == "Exclusive"
    capacity = sharing.capacity(gpus.memory_mib, exclusive=exclusive)
    cards = tuple(
        Card(
            uuid=f"template-{index}",
            index=index,
            model=gpus.model,
            memory_mib=gpus.memory_mib,
            capacity_mib=capacity.memory_mib,
            core_capacity=capacity.cores,
            max_slices=capacity.slices,
        )
        for index in range(gpus.count)
    )
    placement = spec.placement
    return NodeState(
        name=node.name,
        max_slices=spec.max_slices_per_gpu,
        cards=cards,
        node_policy=parse_node_policy("placement.node", placement.node),
        gpu_policy=check_card_policy("placement.gpu", placement.gpu),
        compute=spec.compute.rules(),
    )


def _sharing(pool: VGPUPool) -> Sharing:
    spec = pool.spec
    return Sharing(spec.max_slices_per_gpu, spec.memory_overcommit_percent, spec.cores_overcommit_percent)


def _from_pool(pool: VGPUPool) -> _GPUs | None:
    template = pool.spec.template
    return _GPUs(template.gpus, template.model, template.memory_mib) if template else None


def _from_allocatable(node: NodeObject, pool: VGPUPool) -> _GPUs | None:
    """GPUs that would be advertised in these amounts; None when they are not all there or do not add up to whole GPUs."""
    slots, cores, gib = (_count(node, resource) for resource in names.RESOURCES)
    if not slots or not cores or not gib:
        return None
    exclusive = pool.spec.mode == "Exclusive"
    one = _sharing(pool).capacity(MIB_PER_GIB, exclusive=exclusive)
    count, rest = divmod(cores, one.cores)
    if rest or not count or slots != count * one.slices:
        return None
    percent = NO_OVERCOMMIT if exclusive else pool.spec.memory_overcommit_percent
    known = _from_pool(pool)
    if known is not None and known.count == count and known.memory_mib * count * percent // 100 // MIB_PER_GIB == gib:
        return known
    model = node.labels.get(MODEL_LABEL) or (known.model if known else "unknown")
    return _GPUs(count, model, gib * MIB_PER_GIB * 100 // percent // count)


def _count(node: NodeObject, resource: str) -> int:
    try:
        return parse_count(node.name, resource, node.allocatable.get(resource, "0"))
    except InvalidRequest:
        return 0
