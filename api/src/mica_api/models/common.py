"""Pieces that the models of the custom resources share. Not for values that never reach the API server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict, JsonValue

ConditionStatus = Literal["True", "False", "Unknown"]


class Model(BaseModel):
    """Base of every model: camelCase on the wire, unknown fields refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_wire(self) -> dict[str, Any]:
        """JSON-able form as the API server stores it: camelCase, nothing that was not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectMeta(BaseModel):
    """The part of metadata that Mica reads; the rest is kept out."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


def map_list(*keys: str) -> JsonDict:
    """Schema extension of a list whose items are identified by ``keys``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def rule(rule: str, message: str) -> JsonValue:
    """One CEL validation."""
    return {"rule": rule, "message": message}


class Condition(Model):
    """Kubernetes condition."""

    type: Annotated[str, Field(max_length=63)]
    status: ConditionStatus
    observed_generation: int | None = None
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    reason: Annotated[str, Field(max_length=127)]
    message: Annotated[str, Field(max_length=4096)] = ""


@dataclass(frozen=True, slots=True)
class WantedCondition:
    """What a component has found out about one condition; the time is decided by comparing with what is stored."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


def merge_conditions(
    current: Sequence[Condition], wanted: Iterable[WantedCondition], *, generation: int, now: datetime
) -> list[Condition]:
    """Conditions to store: the transition time moves only when the status does."""
    before = {c.type: c for c in current}
    merged = []
    for item in wanted:
        old = before.get(item.type)
        kept = old.last_transition_time if old and old.status == item.status else None
        merged.append(
            Condition(
                type=item.type,
                status=item.status,
                reason=item.reason,
                message=item.message[:4096],
                observed_generation=generation,
                last_transition_time=kept or now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )
    return merged
