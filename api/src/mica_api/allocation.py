"""The decision for one container, as it travels on the Binding and as the node agent reads it back.

One small, versioned value per container, shaped like the result of a DRA claim. Decoding trusts nothing: a value that is not
exactly one of ours is refused. Whether a decision is *right* for a node is the node agent's question, not this module's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from mica_api import names
from mica_api.request import MAX_CORES, MAX_NUMBER, ContainerRequest

MAX_BYTES: Final = 4096
_VERSION: Final = 1
_MAX_MIB: Final = 2**31
_encode: Final = msgspec.json.Encoder().encode


class InvalidAllocation(ValueError):
    """An allocation value is malformed or contradicts the pod; the message says how."""


@dataclass(frozen=True, slots=True)
class GPUShare:
    """A slice of one card: ``memory_mib`` is concrete and positive, ``cores`` in percent, 0 means uncapped."""

    uuid: str
    memory_mib: int
    cores: int


@dataclass(frozen=True, slots=True)
class ContainerAllocation:
    """The decision for one container of the pod ``pod_uid`` on ``node``; no shares means no GPU."""

    pod_uid: str
    node: str
    shares: tuple[GPUShare, ...]


def encode_allocation(allocation: ContainerAllocation) -> str:
    """Annotation value. Raises InvalidAllocation when it would be larger than MAX_BYTES or break the value's own rules."""
    gpus = [{"uuid": s.uuid, "mem": s.memory_mib, "cores": s.cores} for s in allocation.shares]
    value = _encode({"v": _VERSION, "uid": allocation.pod_uid, "node": allocation.node, "gpus": gpus}).decode()
    decode_allocation(value)
    return value


@lru_cache(maxsize=256)
def decode_allocation(value: str) -> ContainerAllocation:
    """Inverse of ``encode_allocation``. Raises InvalidAllocation. Remembers: what is written is soon read back from a watch."""
    if len(value.encode()) > MAX_BYTES:
        raise InvalidAllocation(f"allocation is larger than {MAX_BYTES} bytes")
    try:
        raw: Any = json.loads(value)
        if set(raw) != {"v", "uid", "node", "gpus"}:
            raise InvalidAllocation("allocation has unknown or missing fields")
        if raw["v"] != _VERSION:
            raise InvalidAllocation(f"allocation has version {raw['v']!r}, known is {_VERSION}")
        if not isinstance(raw["uid"], str) or not isinstance(raw["node"], str):
            raise InvalidAllocation("allocation's uid and node must be strings")
        shares = tuple(_decode_share(item) for item in raw["gpus"])
    except InvalidAllocation:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidAllocation(f"allocation is malformed: {error!r}") from error
    if len(shares) > MAX_NUMBER or len({s.uuid for s in shares}) != len(shares):
        raise InvalidAllocation(f"allocation must name distinct GPUs, {MAX_NUMBER} at most")
    return ContainerAllocation(raw["uid"], raw["node"], shares)


def encode_pod_allocation(*, pod_uid: str, node: str, shares: Sequence[Sequence[GPUShare]]) -> dict[str, str]:
    """Annotations of a Binding: one per app container, containers without slices included."""
    return {
        names.allocation_annotation(index): encode_allocation(ContainerAllocation(pod_uid, node, tuple(chosen)))
        for index, chosen in enumerate(shares)
    }


def decode_pod_allocation(annotations: Mapping[str, str], containers: int) -> tuple[ContainerAllocation, ...] | None:
    """Decisions for ``containers`` app containers, or None when the pod carries none.

    Raises InvalidAllocation when some are missing, too many, or not valid.
    """
    ours = {key for key in annotations if key.startswith(names.ALLOCATION_PREFIX)}
    if not ours:
        return None
    expected = [names.allocation_annotation(index) for index in range(containers)]
    if ours != set(expected):
        raise InvalidAllocation(f"expected exactly the annotations {expected}, found {sorted(ours)}")
    return tuple(decode_allocation(annotations[key]) for key in expected)


def mismatch(request: ContainerRequest, shares: Sequence[GPUShare], memory_of: Mapping[str, int]) -> str | None:
    """Why ``shares`` is not what ``request`` asked for, or None.

    ``memory_of`` gives the memory in MiB of the cards by UUID; a share on a card that is not in it is a mismatch.
    """
    if len(shares) != request.number:
        return f"{len(shares)} GPUs decided, {request.number} requested"
    for share in shares:
        if share.uuid not in memory_of:
            return f"GPU {share.uuid} is not on this node"
        wanted = request.memory_on(memory_of[share.uuid])
        if share.memory_mib != wanted:
            return f"{share.memory_mib} MiB decided on {share.uuid}, {wanted} MiB requested"
        if share.cores != request.cores:
            return f"{share.cores} % cores decided on {share.uuid}, {request.cores} % requested"
    return None


def _decode_share(item: Any) -> GPUShare:
    if set(item) != {"uuid", "mem", "cores"} or type(item["mem"]) is not int or type(item["cores"]) is not int:
        raise InvalidAllocation(f"allocation has a malformed GPU entry: {item!r}")
    uuid = item["uuid"]
    if not isinstance(uuid, str) or not 0 < len(uuid) <= 80 or not uuid.isascii() or not uuid.isprintable():
        raise InvalidAllocation(f"allocation has a malformed GPU UUID: {uuid!r}")
    if not 0 < item["mem"] <= _MAX_MIB or not 0 <= item["cores"] <= MAX_CORES:
        raise InvalidAllocation(f"allocation has amounts out of range: {item!r}")
    return GPUShare(uuid, item["mem"], item["cores"])
