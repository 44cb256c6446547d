"""A submitted pod, read defensively: anything may be missing or of the wrong type before the API server has validated it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mica_api.dialects import DIALECTS
from mica_api.request import InvalidRequest, parse_count

Body = Mapping[str, Any]


class Refusal(StrEnum):
    """Reasons that metrics count, few and fixed."""

    INVALID_REQUEST = "InvalidRequest"
    UNKNOWN_ANNOTATION = "UnknownAnnotation"
    FORGED_DECISION = "ForgedDecision"
    BYPASSES_PLACEMENT = "BypassesPlacement"
    SWITCHES_LIMITS_OFF = "SwitchesLimitsOff"
    INIT_CONTAINER = "InitContainer"
    OTHER_WEBHOOK = "OtherWebhook"
    INTERNAL_ERROR = "InternalError"


class Refused(Exception):
    """The pod is not admitted; the message says what to change."""

    def __init__(self, words: str, reason: Refusal = Refusal.INVALID_REQUEST) -> None:
        super().__init__(words)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Container:
    """One container and what it asks for.

    ``limits`` are its resources of any dialect: what the limits say, else what the requests say.
    """

    path: str
    name: str
    body: Body
    limits: Mapping[str, str]

    @property
    def env(self) -> Sequence[Body]:
        """Environment variables as written."""
        return objects(self.body.get("env"))


def app_containers(pod: Body) -> list[Container]:
    """The containers in ``spec.containers``, in order."""
    return _containers(pod, "containers")


def init_containers(pod: Body) -> list[Container]:
    """The containers in ``spec.initContainers``, sidecars included."""
    return _containers(pod, "initContainers")


def annotations_of(pod: Body) -> dict[str, str]:
    """Annotations; values that are no strings are left to the API server to refuse."""
    return _strings(mapping(mapping(pod.get("metadata")).get("annotations")))


def labels_of(pod: Body) -> dict[str, str]:
    """Labels."""
    return _strings(mapping(mapping(pod.get("metadata")).get("labels")))


def spec_of(pod: Body) -> Body:
    """The pod's spec."""
    return mapping(pod.get("spec"))


def mapping(value: Any) -> Body:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Body]:
    """The objects in a list; empty for anything that is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def plain(value: Any) -> str:
    """A quantity that is a whole number, written as that number; anything else as it is."""
    try:
        return str(parse_count("", "", str(value)))
    except InvalidRequest:
        return str(value)


def is_ours(resource: str) -> bool:
    """Whether a resource name belongs to any dialect."""
    return any(dialect.owns(resource) for dialect in DIALECTS)


def _containers(pod: Body, field: str) -> list[Container]:
    items = spec_of(pod).get(field)
    bodies = [mapping(item) for item in items] if isinstance(items, list) else []
    return [
        Container(f"/spec/{field}/{index}", str(body.get("name", "")), body, _limits(str(body.get("name", "")), body))
        for index, body in enumerate(bodies)
    ]


def _limits(name: str, body: Body) -> dict[str, str]:
    resources = mapping(body.get("resources"))
    limits, requests = (
        {key: plain(value) for key, value in mapping(resources.get(kind)).items() if is_ours(key)}
        for kind in ("limits", "requests")
    )
    for key in limits.keys() & requests.keys():
        if limits[key] != requests[key]:
            raise InvalidRequest(
                f"container {name}: {key} is {requests[key]} in requests and {limits[key]} in limits; "
                "slices cannot be overcommitted by a pod, write the limit only"
            )
    return requests | limits


def _strings(items: Body) -> dict[str, str]:
    return {key: value for key, value in items.items() if isinstance(value, str)}
