"""Model of placement: on which nodes replicas may run, in the words of a pod."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from mica_api.models.common import Model, rule

_Label = Annotated[str, Field(max_length=63)]


class Toleration(Model):
    """As in a pod."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.operator != 'Exists' || !has(self.value)", "a toleration with operator Exists has no value"),
                rule("self.operator == 'Exists' || has(self.key)", "a toleration needs a key, or operator Exists"),
                rule(
                    "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                    "tolerationSeconds needs effect NoExecute",
                ),
            ]
        }
    )

    key: Annotated[str | None, Field(min_length=1, max_length=317)] = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: _Label | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None


class PlacementSpec(Model):
    """Where replicas may run."""

    node_selector: Annotated[dict[str, _Label] | None, Field(max_length=16)] = None
    tolerations: Annotated[list[Toleration] | None, Field(max_length=32)] = None
    priority_class_name: Annotated[str | None, Field(min_length=1, max_length=253)] = None
