"""Model of VGPUNode: the GPUs of one node, the slices held on them and what the node's agent has refused.

Written only by that node's agent (for simulated nodes by whoever makes them); gone with its Node.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from mica_api.models.common import Condition, Model, ObjectMeta, map_list
from mica_api.models.vgpu_pool import MAX_GPUS_OF_NODE, MAX_SLICES, ComputePolicy, ComputeWeight, GPUMode, Overcommit, Priority
from mica_api.sharing import NO_OVERCOMMIT

GPUHealth = Literal["Healthy", "Unhealthy"]


class GPULink(Model):
    """Connection to another GPU of the node, in the notation of the vendor's topology matrix (NV18, PIX, SYS …)."""

    uuid: Annotated[str, Field(max_length=80)]
    type: Annotated[str, Field(max_length=16)]


class GPU(Model):
    """One physical GPU."""

    uuid: Annotated[str, Field(min_length=1, max_length=80)]
    index: Annotated[int, Field(ge=0, le=MAX_SLICES)]
    model: Annotated[str, Field(max_length=128)]
    memory_mib: Annotated[int, Field(ge=1, alias="memoryMiB")]
    numa_node: int | None = None
    pci_bus_id: Annotated[str | None, Field(max_length=32, alias="pciBusID")] = None
    health: GPUHealth = "Healthy"
    mode: Annotated[GPUMode, Field(description="Exclusive: one slice at most, and no overcommit.")] = "Shared"
    cordoned: Annotated[bool, Field(description="Nothing new is placed here; slices that are here stay.")] = False
    links: Annotated[list[GPULink] | None, Field(max_length=64, json_schema_extra=map_list("uuid"))] = None


class DriverInfo(Model):
    """Driver of the node."""

    version: Annotated[str, Field(max_length=64)]
    simulated: bool = False


class VGPUNodeSpec(Model):
    """Inventory, and how the node's pool slices it."""

    pool: Annotated[str, Field(max_length=253)]
    max_slices_per_gpu: Annotated[int, Field(ge=1, le=MAX_SLICES, alias="maxSlicesPerGPU")]
    memory_overcommit_percent: Overcommit = NO_OVERCOMMIT
    cores_overcommit_percent: Overcommit = NO_OVERCOMMIT
    driver: DriverInfo
    gpus: Annotated[list[GPU], Field(max_length=MAX_GPUS_OF_NODE, json_schema_extra=map_list("uuid"))]


class HeldGPU(Model):
    """A slice's share of one GPU."""

    uuid: Annotated[str, Field(max_length=80)]
    memory_mib: Annotated[int, Field(alias="memoryMiB")]
    cores: int


class HeldCompute(Model):
    """How a slice shares the time of its GPUs: the pod's choice within what the pool allows."""

    policy: ComputePolicy
    priority: Priority
    weight: ComputeWeight


class HeldSlice(Model):
    """What one container holds on this node."""

    pod_uid: Annotated[str, Field(max_length=64, alias="podUID")]
    namespace: Annotated[str, Field(max_length=63)]
    pod: Annotated[str, Field(max_length=253)]
    container: Annotated[str, Field(max_length=63)]
    gpus: Annotated[list[HeldGPU], Field(max_length=64)]
    compute: HeldCompute | None = None


class Refusal(Model):
    """A container that the agent did not let start."""

    pod_uid: Annotated[str, Field(max_length=64, alias="podUID")]
    namespace: Annotated[str, Field(max_length=63)]
    pod: Annotated[str, Field(max_length=253)]
    container: Annotated[str, Field(max_length=63)]
    reason: Annotated[str, Field(max_length=63)]
    message: Annotated[str, Field(max_length=1024)]


class NodeSummary(Model):
    """For people; the numbers are in the other fields."""

    gpus: int = 0
    exclusive: Annotated[int, Field(description="GPUs of mode Exclusive.")] = 0
    cordoned: Annotated[int, Field(description="GPUs that nothing new is placed on.")] = 0
    model: str = ""
    slices: str = ""
    cores: str = ""
    memory: str = ""


class NodeCPU(Model):
    """CPU of the node beside its GPUs, in thousandths of a core; follows small changes with a delay."""

    allocatable_milli: Annotated[int, Field(ge=0, description="Allocatable CPU of the Node.")]
    requested_milli: Annotated[int, Field(ge=0, description="Requested by unfinished pods on the node that have no slice.")]


class VGPUNodeStatus(Model):
    """Observed state."""

    cpu: NodeCPU | None = None
    summary: NodeSummary | None = None
    slices: Annotated[list[HeldSlice] | None, Field(max_length=4096, json_schema_extra=map_list("podUID", "container"))] = None
    refusals: Annotated[list[Refusal] | None, Field(max_length=256, json_schema_extra=map_list("podUID", "container"))] = None
    conditions: Annotated[list[Condition] | None, Field(json_schema_extra=map_list("type"))] = None


class VGPUNode(Model):
    """GPUs of one node and the slices on them."""

    model_config = ConfigDict(extra="ignore")

    metadata: ObjectMeta
    spec: VGPUNodeSpec
    status: VGPUNodeStatus | None = None
