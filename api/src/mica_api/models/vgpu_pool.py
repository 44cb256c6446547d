"""Model of VGPUPool: which nodes form a pool and how their GPUs are sliced and filled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from mica_api.models.common import Condition, Model, ObjectMeta, map_list

PlacementPolicy = Literal["Binpack", "Spread"]
DEFAULT_MAX_SLICES = 10
MAX_SLICES = 64


class NodeSelector(Model):
    """Labels that a node must carry; empty selects every node with GPUs."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]] | None, Field(max_length=16)] = None


class PoolPlacement(Model):
    """Default policies of pods that do not choose one: over nodes, and over the cards of a node."""

    node: PlacementPolicy = "Binpack"
    gpu: PlacementPolicy = "Binpack"


class VGPUPoolSpec(Model):
    """Wanted state."""

    node_selector: NodeSelector = NodeSelector()
    max_slices_per_gpu: Annotated[
        int, Field(ge=1, le=MAX_SLICES, alias="maxSlicesPerGPU", description="Slices that may share one GPU.")
    ] = DEFAULT_MAX_SLICES
    placement: PoolPlacement = PoolPlacement()


class Amounts(Model):
    """Sums over the GPUs of a pool."""

    slices: int = 0
    cores: Annotated[int, Field(description="Percent of one GPU, summed.")] = 0
    memory_mib: Annotated[int, Field(alias="memoryMiB")] = 0


class PoolSummary(Model):
    """Allocated of capacity, for people; the numbers are in the other fields."""

    slices: str = ""
    cores: str = ""
    memory: str = ""


class VGPUPoolStatus(Model):
    """Observed state, written by the operator from the nodes' inventories."""

    observed_generation: int | None = None
    nodes: int = 0
    gpus: int = 0
    capacity: Amounts | None = None
    allocated: Amounts | None = None
    summary: PoolSummary | None = None
    conditions: Annotated[list[Condition] | None, Field(json_schema_extra=map_list("type"))] = None


class VGPUPool(Model):
    """A set of GPU nodes that are sliced and filled in one way."""

    model_config = ConfigDict(extra="ignore")

    metadata: ObjectMeta
    spec: VGPUPoolSpec = VGPUPoolSpec()
    status: VGPUPoolStatus | None = None
