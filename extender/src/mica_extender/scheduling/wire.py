"""The scheduler extender protocol on the wire. Keys are capitalised because Kubernetes' structs carry no JSON names for them.

Decoding is strict about types and blind to fields that nobody needs. Raises ``Malformed`` for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgspec

from mica_extender.state.records import Pod, PodRecord, decode_pod, pod_record


class Malformed(ValueError):
    """The body is not what the protocol says; the message says where."""


class _NodeList(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _Args(msgspec.Struct):
    Pod: msgspec.Raw
    Nodes: _NodeList | None = None
    NodeNames: msgspec.Raw = msgspec.Raw(b"null")


class _BindArgs(msgspec.Struct):
    PodName: str
    PodNamespace: str
    PodUID: str
    Node: str


class _Meta(msgspec.Struct):
    name: str = ""
    uid: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta


class _MetaPod(msgspec.Struct):
    UID: str


class _MetaVictims(msgspec.Struct):
    Pods: list[_MetaPod] | None = None
    NumPDBViolations: int = 0


class _Victims(msgspec.Struct):
    Pods: list[_Object] | None = None
    NumPDBViolations: int = 0


class _PreemptArgs(msgspec.Struct):
    Pod: Pod
    NodeNameToVictims: dict[str, _Victims] | None = None
    NodeNameToMetaVictims: dict[str, _MetaVictims] | None = None


@dataclass(frozen=True, slots=True)
class NodeQuestion:
    """Arguments of filter and prioritize: a pod and nodes.

    By name as the JSON array that came, not read yet, or (``objects``) by name with the nodes' objects.
    """

    pod: PodRecord
    names: bytes
    objects: Mapping[str, msgspec.Raw] | None


@dataclass(frozen=True, slots=True)
class FilterAnswer:
    """Nodes that fit, nodes that lack capacity now, nodes that can never fit; the texts are reasons."""

    fitting: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    unresolvable: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class BindQuestion:
    """Arguments of bind. Only a hint at what to do: the watch knows the pod."""

    namespace: str
    name: str
    uid: str
    node: str

    @property
    def key(self) -> str:
        """Key of the pod in the reflector's copy."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Victims:
    """Pods that a preemption would delete on a node."""

    uids: tuple[str, ...]
    pdb_violations: int


@dataclass(frozen=True, slots=True)
class PreemptQuestion:
    """Arguments of preempt: the pod that wants in and the candidates by node."""

    pod: PodRecord
    candidates: Mapping[str, Victims]


UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""
_args: Final = msgspec.json.Decoder(_Args).decode
_bind_args: Final = msgspec.json.Decoder(_BindArgs).decode
_preempt_args: Final = msgspec.json.Decoder(_PreemptArgs).decode
_object: Final = msgspec.json.Decoder(_Object).decode
_encode: Final = msgspec.json.Encoder().encode
_LARGEST_KEPT: Final = 2**16
_recent_pod: Final = lru_cache(maxsize=8)(decode_pod)


def read_nodes(body: bytes) -> NodeQuestion:
    """Decode the arguments of filter or prioritize."""
    try:
        args = _args(body)
        pod, names = _pod(bytes(args.Pod)), bytes(args.NodeNames)
        if names != b"null":
            return NodeQuestion(pod, names, None)
        items = (args.Nodes.items if args.Nodes else None) or []
        objects = {_object(item).metadata.name: item for item in items}
    except UNREADABLE as error:
        raise Malformed(f"extender arguments: {error}") from error
    return NodeQuestion(pod, b"", objects)


def _pod(raw: bytes) -> PodRecord:
    """kube-scheduler sends the same pod to filter and to prioritize."""
    return _recent_pod(raw) if len(raw) <= _LARGEST_KEPT else decode_pod(raw)


def read_bind(body: bytes) -> BindQuestion:
    """Decode the arguments of bind."""
    try:
        args = _bind_args(body)
    except UNREADABLE as error:
        raise Malformed(f"bind arguments: {error}") from error
    return BindQuestion(args.PodNamespace, args.PodName, args.PodUID, args.Node)


def read_preempt(body: bytes) -> PreemptQuestion:
    """Decode the arguments of preempt, in either form."""
    try:
        args = _preempt_args(body)
    except UNREADABLE as error:
        raise Malformed(f"preempt arguments: {error}") from error
    candidates = {
        node: Victims(tuple(pod.metadata.uid for pod in v.Pods or ()), v.NumPDBViolations)
        for node, v in (args.NodeNameToVictims or {}).items()
    } | {
        node: Victims(tuple(pod.UID for pod in v.Pods or ()), v.NumPDBViolations)
        for node, v in (args.NodeNameToMetaVictims or {}).items()
    }
    return PreemptQuestion(pod_record(args.Pod), candidates)


def write_filter(answer: FilterAnswer, objects: Mapping[str, msgspec.Raw] | None = None) -> bytes:
    """Encode the answer of filter, in the form of the question."""
    body: dict[str, Any] = {
        "Nodes": None,
        "NodeNames": list(answer.fitting),
        "FailedNodes": dict(answer.failed),
        "FailedAndUnresolvableNodes": dict(answer.unresolvable),
        "Error": answer.error,
    }
    if objects is not None:
        body["Nodes"] = {"metadata": {}, "items": [objects[name] for name in answer.fitting]}
        body["NodeNames"] = None
    return _encode(body)


def write_bind(error: str) -> bytes:
    """Encode the answer of bind; no error is success."""
    return _encode({"Error": error})


def write_preempt(candidates: Mapping[str, Victims]) -> bytes:
    """Encode the answer of preempt, which is always the short form."""
    nodes = {
        node: {"Pods": [{"UID": uid} for uid in v.uids], "NumPDBViolations": v.pdb_violations} for node, v in candidates.items()
    }
    return _encode({"NodeNameToMetaVictims": nodes})
