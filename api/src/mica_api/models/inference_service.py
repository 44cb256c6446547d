"""Model of InferenceService: one model, served by engine replicas on GPU slices.

Holds only fields that the operator and the router enforce.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field

from mica_api.models.common import Condition, Model, ObjectMeta, map_list, rule
from mica_api.models.engine import Duration, EngineSpec
from mica_api.models.placement import PlacementSpec
from mica_api.models.routing import CPUSpec, RoutingSpec
from mica_api.models.vgpu_pool import ComputePolicy, ComputeWeight, Priority
from mica_api.request import MAX_NUMBER

MODEL_NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,253}[A-Za-z0-9])?$"
_GI_PATTERN = re.compile(r"^([1-9][0-9]{0,6})(Gi|Mi)$")


_ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN, max_length=255)]


class Adapter(Model):
    """A LoRA adapter, served as a model of its own."""

    name: _ModelName
    uri: Annotated[str, Field(min_length=8, max_length=1024, pattern="^file:///", description="Its directory: file:///PATH.")]


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
    aliases: Annotated[
        list[_ModelName] | None,
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}, description="Further names of the model."),
    ] = None
    revision: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=128,
            description="Which version of the weights is found there. A change replaces the replicas.",
        ),
    ] = None
    adapters: Annotated[
        list[Adapter] | None,
        Field(max_length=16, json_schema_extra=map_list("name"), description="LoRA adapters; engine type vllm only."),
    ] = None


class SliceCompute(Model):
    """How replicas share the time of their GPUs; what is not said is the pool's default, which also bounds it."""

    policy: Annotated[
        ComputePolicy | None,
        Field(description="With cores. Strict: never more than them. Conserving: also time that others leave."),
    ] = None
    priority: Annotated[
        Priority | None, Field(description="While a slice of a higher class wants the GPU, lower ones get 2 % of its time.")
    ] = None
    weight: Annotated[
        ComputeWeight | None, Field(description="Without cores: part of what capped slices leave, beside others without a cap.")
    ] = None


class SliceSpec(Model):
    """Slice of each replica. Without cores and memory: whole GPUs of its own."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.compute) || (has(self.cores) ? self.cores < 100 : has(self.memory))",
                    "slice.compute has no effect: replicas have their GPUs alone; remove it, or set cores below 100, or memory",
                ),
                rule(
                    "!has(self.compute) || !has(self.compute.policy) || has(self.cores)",
                    "slice.compute.policy is about a cap: set slice.cores, or remove it",
                ),
                rule(
                    "!has(self.compute) || !has(self.compute.weight) || !has(self.cores)",
                    "slice.compute.weight is for slices without a cap: remove slice.cores, or the weight",
                ),
            ]
        }
    )

    number: Annotated[int, Field(ge=1, le=MAX_NUMBER, description="Distinct physical GPUs of one replica.")] = 1
    cores: Annotated[int | None, Field(ge=1, le=100, description="Percent of the compute of each GPU; unset: not capped.")] = None
    memory: Annotated[
        str | None,
        Field(
            pattern=_GI_PATTERN.pattern,
            description="Memory of each GPU, as 12Gi or 1536Mi; unset: the whole card.",
        ),
    ] = None
    compute: Annotated[
        SliceCompute | None,
        Field(description="How replicas share the time of their GPUs. A change replaces them, one of the pool does not."),
    ] = None

    @property
    def memory_mib(self) -> int | None:
        """Memory in MiB, or None for the whole card."""
        match = _GI_PATTERN.match(self.memory) if self.memory else None
        return int(match[1]) * (1024 if match[2] == "Gi" else 1) if match else None


class AutoscalingTarget(Model):
    """What each replica should have to do."""

    inflight: Annotated[int, Field(ge=1, le=100_000, description="Requests per replica, those that wait included.")] = 16


class AutoscalingSpec(Model):
    """Replicas follow the demand that the router counts. They are written by the operator alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [rule("self.min <= self.max", "autoscaling.min must not be larger than autoscaling.max")]
        }
    )

    min: Annotated[int, Field(ge=0, le=1000, description="0: the last replica ends when nothing is asked of it.")] = 1
    max: Annotated[int, Field(ge=1, le=1000)]
    target: AutoscalingTarget = AutoscalingTarget()
    idle_timeout: Annotated[Duration, Field(description="Time without any request after which the last replica ends.")] = "30m"
    scale_down_window: Annotated[
        Duration, Field(description="Replicas are taken away, one at a time, when fewer would have been enough for so long.")
    ] = "5m"


class InferenceServiceSpec(Model):
    """Wanted state."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.model.adapters) || (has(self.engine) && self.engine.type == 'vllm')",
                    "model.adapters needs engine.type vllm",
                ),
                rule(
                    "!has(self.model.adapters) || !has(self.cpu)",
                    "model.adapters and cpu cannot be combined: the CPU tier would not serve the adapters",
                ),
                rule(
                    "!has(self.cpu) || self.cpu.mode != 'relay' || (has(self.engine) && self.engine.type == 'vllm')",
                    "cpu.mode relay needs engine.type vllm: only vLLM tells token ids",
                ),
                rule(
                    "!has(self.cpu) || self.cpu.mode != 'relay' || !has(self.routing) || self.routing.resumeMidStream",
                    "cpu.mode relay goes on with streams in mid-stream: remove routing.resumeMidStream: false",
                ),
                rule(
                    "!has(self.routing) || !has(self.routing.rules) || has(self.cpu)",
                    "routing.rules choose between tiers: set cpu, or remove them",
                ),
                rule(
                    "!(has(self.replicas) && has(self.autoscaling))",
                    "replicas and autoscaling cannot both be set: remove replicas",
                ),
            ]
        }
    )

    model: ModelSource
    slice: SliceSpec = SliceSpec()
    engine: EngineSpec = EngineSpec()
    replicas: Annotated[int | None, Field(ge=0, le=1000, description="Default: 1.")] = None
    autoscaling: AutoscalingSpec | None = None
    placement: PlacementSpec | None = None
    cpu: CPUSpec | None = None
    routing: RoutingSpec | None = None


class InferenceServiceStatus(Model):
    """Observed state, written by the operator."""

    observed_generation: int | None = None
    url: str | None = None
    desired_replicas: int | None = None
    replicas: int = 0
    ready_replicas: int = 0
    cpu_ready_replicas: int | None = None
    selector: str = ""
    api_key_hashes: Annotated[
        list[str] | None, Field(max_length=1000, description="SHA-256 of the keys that clients may use, read by the router.")
    ] = None
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

    @property
    def replicas(self) -> int:
        """Replicas that are asked for where nothing scales them."""
        return 1 if self.spec.replicas is None else self.spec.replicas
