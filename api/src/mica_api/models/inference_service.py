"""Model of InferenceService: one model, served by engine replicas on GPU slices.

Holds only fields that the operator and the router enforce.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from mica_api.models.common import Condition, Model, ObjectMeta, map_list, rule
from mica_api.request import MAX_NUMBER

MODEL_NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,253}[A-Za-z0-9])?$"
_GI_PATTERN = re.compile(r"^([1-9][0-9]{0,6})(Gi|Mi)$")


class ModelSource(Model):
    """Which model is served, and under which name."""

    uri: Annotated[
        str,
        Field(
            min_length=8,
            max_length=1024,
            description="Where the weights are: file:///PATH inside the engine's image or its volumes.",
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule(
                        "self.startsWith('file:///')",
                        "only file:///PATH (a path in the engine's container) is supported",
                    )
                ]
            },
        ),
    ]
    name: Annotated[
        str | None,
        Field(
            pattern=MODEL_NAME_PATTERN,
            max_length=255,
            description="Name that clients write in the field model. Default: the name of this object.",
        ),
    ] = None


class SliceSpec(Model):
    """Slice of each replica. Without cores and memory: whole GPUs of its own."""

    number: Annotated[int, Field(ge=1, le=MAX_NUMBER, description="Distinct physical GPUs of one replica.")] = 1
    cores: Annotated[int | None, Field(ge=1, le=100, description="Percent of the compute of each GPU; unset: not capped.")] = None
    memory: Annotated[
        str | None,
        Field(
            pattern=_GI_PATTERN.pattern,
            description="Memory of each GPU, as 12Gi or 1536Mi; unset: the whole card.",
        ),
    ] = None

    @property
    def memory_mib(self) -> int | None:
        """Memory in MiB, or None for the whole card."""
        match = _GI_PATTERN.match(self.memory) if self.memory else None
        return int(match[1]) * (1024 if match[2] == "Gi" else 1) if match else None


class EnvVar(Model):
    """Literal environment variable of the engine."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule(
                        "!(self in ['LD_PRELOAD', 'LD_AUDIT', 'GLIBC_TUNABLES'])",
                        "LD_PRELOAD, LD_AUDIT and GLIBC_TUNABLES are not allowed in containers on GPU slices; remove them",
                    )
                ]
            },
        ),
    ]
    value: Annotated[str, Field(max_length=4096)] = ""


class EngineSpec(Model):
    """The program that serves the model."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.type != 'custom' || has(self.image)",
                    "engine.image is required for engine type custom",
                ),
                rule(
                    "self.type == 'custom' || !has(self.command)",
                    "engine.command may be set for engine type custom only",
                ),
            ]
        }
    )

    type: Annotated[
        Literal["llamacpp", "vllm", "custom"],
        Field(description="llamacpp and vllm get the arguments for model, name and port; custom gets only args."),
    ] = "llamacpp"
    image: Annotated[
        str | None,
        Field(min_length=1, max_length=512, description="Default: the chart's image for the type."),
    ] = None
    command: Annotated[list[Annotated[str, Field(max_length=1024)]] | None, Field(max_length=16)] = None
    args: Annotated[
        list[Annotated[str, Field(max_length=1024)]] | None,
        Field(max_length=128, description="Appended to the arguments of the type."),
    ] = None
    env: Annotated[list[EnvVar] | None, Field(max_length=64, json_schema_extra=map_list("name"))] = None
    port: Annotated[int, Field(ge=1, le=65535, description="HTTP port of the engine.")] = 8000


class PlacementSpec(Model):
    """Where replicas may run."""

    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]] | None, Field(max_length=16)] = None


class InferenceServiceSpec(Model):
    """Wanted state."""

    model: ModelSource
    slice: SliceSpec = SliceSpec()
    engine: EngineSpec = EngineSpec()
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    placement: PlacementSpec | None = None


class InferenceServiceStatus(Model):
    """Observed state, written by the operator."""

    observed_generation: int | None = None
    url: str | None = None
    replicas: int = 0
    ready_replicas: int = 0
    selector: str = ""
    conditions: Annotated[list[Condition] | None, Field(json_schema_extra=map_list("type"))] = None


class InferenceService(Model):
    """An OpenAI-compatible model on GPU slices."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.metadata.name.matches('^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$')",
                    "metadata.name must be at most 50 characters of a-z, 0-9 and -, start with a letter and end with a letter or "
                    "digit: names of Services and labels are made from it",
                )
            ]
        },
    )

    metadata: ObjectMeta
    spec: InferenceServiceSpec
    status: InferenceServiceStatus | None = None

    @property
    def model_name(self) -> str:
        """Name under which clients ask for the model."""
        return self.spec.model.name or self.metadata.name
