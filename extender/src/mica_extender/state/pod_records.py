"""The few fields of a pod that decisions need, decoded strictly and fast."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from mica_api import names
from mica_api.allocation import GPUShare, InvalidAllocation, decode_pod_allocation
from mica_api.cpu import ContainerCPU, parse_milli, pod_milli
from mica_api.request import InvalidRequest, read_request
from mica_api.selection import SELECTION_ANNOTATIONS, read_selection
from mica_extender.placement import Shape

_TERMINAL: Final = frozenset({"Succeeded", "Failed"})


class _Owner(msgspec.Struct):
    controller: bool = False


class _PodMeta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    deletionTimestamp: str | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[_Owner] | None = None


class _Resources(msgspec.Struct):
    limits: dict[str, str] | None = None
    requests: dict[str, str] | None = None


class _Container(msgspec.Struct):
    name: str
    resources: _Resources = msgspec.field(default_factory=_Resources)
    restartPolicy: str = ""


class _PodSpec(msgspec.Struct):
    nodeName: str = ""
    schedulerName: str = ""
    containers: list[_Container] = msgspec.field(default_factory=list)
    initContainers: list[_Container] | None = None
    overhead: dict[str, str] | None = None
    resources: _Resources | None = None


class _PodStatus(msgspec.Struct):
    phase: str = ""


class Pod(msgspec.Struct):
    """A pod on the wire, as far as it matters here."""

    metadata: _PodMeta = msgspec.field(default_factory=_PodMeta)
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod as decisions see it.

    ``shape`` is None when the pod's request cannot be honoured, and ``problem`` then says why. ``shares`` are per app container
    and present only when the pod is bound and its allocation annotations name this very pod and node: others never count.
    ``cpu_milli`` is the CPU that the pod requests. ``original`` is what it asked for in another system's words; kept until it is
    bound, like the number of its init containers.
    """

    namespace: str
    name: str
    uid: str
    revision: str
    node: str
    scheduler: str
    terminal: bool
    deleting: bool
    controlled: bool
    shape: Shape | None
    problem: str
    shares: tuple[tuple[GPUShare, ...], ...] | None
    cpu_milli: int = 0
    original: str = ""
    init_containers: int = 0

    @property
    def key(self) -> str:
        """Name for messages and key of the reflector's copy."""
        return f"{self.namespace}/{self.name}"


_decode: Final = msgspec.json.Decoder(Pod).decode


def decode_pod(raw: bytes) -> PodRecord:
    """Record of a pod's JSON. Raises msgspec.DecodeError."""
    return pod_record(_decode(raw))


def pod_record(pod: Pod) -> PodRecord:
    """Record of a decoded pod."""
    meta, spec = pod.metadata, pod.spec
    annotations = meta.annotations or {}
    cpu_milli = _cpu_milli(spec)
    shape, problem = _shapes.of(spec.containers, annotations, cpu_milli)
    node = sys.intern(spec.nodeName)
    return PodRecord(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        revision=meta.resourceVersion,
        node=node,
        scheduler=sys.intern(spec.schedulerName),
        terminal=pod.status.phase in _TERMINAL,
        deleting=meta.deletionTimestamp is not None,
        controlled=any(owner.controller for owner in meta.ownerReferences or []),
        shape=shape,
        problem=problem,
        shares=_stored_shares(annotations, uid=meta.uid, node=node, containers=len(spec.containers)),
        cpu_milli=cpu_milli,
        original="" if node else annotations.get(names.ANNOTATION_ORIGINAL, ""),
        init_containers=0 if node else len(spec.initContainers or []),
    )


class _Shapes:
    """Shapes that were read lately, so that equal pods share one object and are read once. Bounded."""

    def __init__(self) -> None:
        self._known: OrderedDict[object, tuple[Shape | None, str]] = OrderedDict()

    def of(self, containers: list[_Container], annotations: Mapping[str, str], cpu_milli: int) -> tuple[Shape | None, str]:
        """The shape of a pod, or None and what is wrong with its request."""
        limits = tuple((c.name, tuple((c.resources.limits or {}).items())) for c in containers)
        deciding = tuple(item for item in annotations.items() if item[0] in _DECIDING)
        key = (limits, deciding, cpu_milli)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _read_shape(containers, annotations, cpu_milli)
            if len(self._known) > MAX_SHAPES:
                self._known.popitem(last=False)
        return known


def _short(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM else f"{text[: MAX_PROBLEM - 1]}…"


MAX_SHAPES: Final = 4096
MAX_PROBLEM: Final = 500
"""Characters of what is wrong with a request. It quotes what people wrote, and an answer of filter has it once for every node."""
_DECIDING: Final = SELECTION_ANNOTATIONS | {names.ANNOTATION_REQUEST}
"""What a shape is read from. The others are many, large and different for every pod."""
_shapes: Final = _Shapes()


def _read_shape(containers: list[_Container], annotations: Mapping[str, str], cpu_milli: int) -> tuple[Shape | None, str]:
    limits = [(c.name, c.resources.limits or {}) for c in containers]
    try:
        return Shape(read_request(limits, annotations), read_selection(annotations), cpu_milli), ""
    except InvalidRequest as error:
        return None, _short(str(error))


def _cpu_milli(spec: _PodSpec) -> int:
    """CPU that the pod requests; an amount that cannot be read counts as nothing, because CPU decides nothing by itself."""
    whole = spec.resources.requests if spec.resources else None
    return pod_milli(
        apps=[_cpu(c.resources.requests) for c in spec.containers],
        inits=[ContainerCPU(_cpu(c.resources.requests), c.restartPolicy == "Always") for c in spec.initContainers or ()],
        overhead=_cpu(spec.overhead),
        whole=_cpu(whole) if whole and "cpu" in whole else None,
    )


def _cpu(amounts: Mapping[str, str] | None) -> int:
    text = amounts.get("cpu", "") if amounts else ""
    try:
        return parse_milli(text) if text else 0
    except ValueError:
        return 0


def _stored_shares(
    annotations: Mapping[str, str], *, uid: str, node: str, containers: int
) -> tuple[tuple[GPUShare, ...], ...] | None:
    if not node:
        return None
    try:
        stored = decode_pod_allocation(annotations, containers)
    except InvalidAllocation:
        return None
    if stored is None or any(c.pod_uid != uid or c.node != node for c in stored):
        return None
    return tuple(tuple(GPUShare(sys.intern(s.uuid), s.memory_mib, s.cores) for s in c.shares) for c in stored)
