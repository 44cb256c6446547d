"""The few fields of Kubernetes objects that decisions need, decoded strictly and fast. This is where they are imported from.

Not the models of the CRDs: those describe whole objects and cost ten times as much to decode for each event. Pods and VGPUNodes
have modules of their own; here are pools and leases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from mica_api.compute import (
    DEFAULT_POLICY,
    DEFAULT_PRIORITY,
    DEFAULT_RULES,
    DEFAULT_WEIGHT,
    Compute,
    ComputeRules,
    parse_policy,
    parse_priority,
)
from mica_api.policies import (
    DEFAULT_CARD_POLICY,
    DEFAULT_NODE_POLICY,
    CardPolicy,
    NodePolicy,
    Weights,
    check_card_policy,
    parse_node_policy,
)
from mica_api.request import InvalidRequest
from mica_extender.state.node_records import NodeRecord, RefusedPod, decode_node
from mica_extender.state.pod_records import Pod, PodRecord, decode_pod, pod_record

__all__ = [
    "LeaseRecord",
    "NodeRecord",
    "Pod",
    "PodRecord",
    "PoolRecord",
    "RefusedPod",
    "decode_lease",
    "decode_node",
    "decode_pod",
    "decode_pool",
    "pod_record",
]


class _Named(msgspec.Struct):
    name: str


class _Weights(msgspec.Struct):
    slots: int
    cores: int
    memory: int


class _PoolPlacement(msgspec.Struct):
    node: str = DEFAULT_NODE_POLICY
    gpu: tuple[str, ...] = DEFAULT_CARD_POLICY
    weights: _Weights | None = None


class _PoolCompute(msgspec.Struct):
    policy: str = DEFAULT_POLICY
    priority: str = DEFAULT_PRIORITY
    highestPriority: str = DEFAULT_PRIORITY
    weight: int = DEFAULT_WEIGHT
    maxWeight: int = DEFAULT_WEIGHT


class _PoolSpec(msgspec.Struct):
    placement: _PoolPlacement = msgspec.field(default_factory=_PoolPlacement)
    compute: _PoolCompute = msgspec.field(default_factory=_PoolCompute)


class _VGPUPool(msgspec.Struct):
    metadata: _Named
    spec: _PoolSpec = msgspec.field(default_factory=_PoolSpec)


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """Default policies and weights of a pool, and what its pods may choose of the compute."""

    name: str
    node_policy: NodePolicy = DEFAULT_NODE_POLICY
    gpu_policy: tuple[CardPolicy, ...] = DEFAULT_CARD_POLICY
    weights: Weights | None = None
    compute: ComputeRules = DEFAULT_RULES


class _LeaseSpec(msgspec.Struct):
    holderIdentity: str | None = None
    leaseDurationSeconds: int | None = None
    renewTime: str | None = None
    leaseTransitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Named
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A leader election's Lease. ``renewed`` is another machine's clock: it is only ever compared with itself.

    ``transitions`` counts the holders.
    """

    name: str
    holder: str
    duration_s: int
    renewed: str
    transitions: int = 0


_pool: Final = msgspec.json.Decoder(_VGPUPool).decode
_lease: Final = msgspec.json.Decoder(_Lease).decode


def decode_pool(raw: bytes) -> PoolRecord:
    """Record of a VGPUPool's JSON. Raises msgspec.DecodeError."""
    pool = _pool(raw)
    placement = pool.spec.placement
    weights = placement.weights
    try:
        return PoolRecord(
            pool.metadata.name,
            node_policy=parse_node_policy("placement.node", placement.node),
            gpu_policy=check_card_policy("placement.gpu", placement.gpu),
            weights=Weights(weights.slots, weights.cores, weights.memory) if weights else None,
            compute=_compute(pool.spec.compute),
        )
    except InvalidRequest as error:
        raise msgspec.ValidationError(f"VGPUPool {pool.metadata.name}: {error}") from error


def _compute(spec: _PoolCompute) -> ComputeRules:
    default = Compute(parse_policy("compute.policy", spec.policy), parse_priority("compute.priority", spec.priority), spec.weight)
    return ComputeRules(default, parse_priority("compute.highestPriority", spec.highestPriority), spec.maxWeight)


def decode_lease(raw: bytes) -> LeaseRecord:
    """Record of a Lease's JSON. Raises msgspec.DecodeError."""
    lease = _lease(raw)
    spec = lease.spec
    return LeaseRecord(
        lease.metadata.name,
        holder=spec.holderIdentity or "",
        duration_s=spec.leaseDurationSeconds or 0,
        renewed=spec.renewTime or "",
        transitions=spec.leaseTransitions or 0,
    )
