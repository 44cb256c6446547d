"""Model of VGPUPool: which nodes form a pool and how their GPUs are sliced and filled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonValue

from mica_api.compute import DEFAULT_WEIGHT, Compute, ComputeRules, parse_policy, parse_priority
from mica_api.compute import MAX_WEIGHT as MAX_COMPUTE_WEIGHT
from mica_api.models.common import Condition, Model, ObjectMeta, map_list, rule
from mica_api.sharing import NO_OVERCOMMIT

NodePolicy = Literal["Fragmentation", "Binpack", "Spread"]
GPUPolicy = Literal["Fragmentation", "Binpack", "Spread", "Numa", "Mutex", "Topology"]
GPUMode = Literal["Shared", "Exclusive"]
ComputePolicy = Literal["Strict", "Conserving"]
Priority = Literal["Low", "Normal", "High"]
DEFAULT_MAX_SLICES = 10
MAX_SLICES = 64
MAX_OVERCOMMIT_PERCENT = 400
MAX_WEIGHT = 1_000_000
MAX_GPUS_OF_NODE = 64
_MAX_OVERRIDES = 512

Weight = Annotated[int, Field(ge=0, le=MAX_WEIGHT)]
Overcommit = Annotated[int, Field(ge=NO_OVERCOMMIT, le=MAX_OVERCOMMIT_PERCENT)]


class NodeSelector(Model):
    """Labels that a node must carry; empty selects every node with GPUs."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]] | None, Field(max_length=16)] = None


class ScoringWeights(Model):
    """How much slots, cores and memory count when Binpack and Spread compare cards and nodes; the unit does not matter."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.slots + self.cores + self.memory > 0", "at least one of slots, cores and memory must be positive")
            ]
        }
    )

    slots: Weight
    cores: Weight
    memory: Weight


class PoolPlacement(Model):
    """Default policies of pods that do not choose one: over nodes, and over the cards of a node."""

    node: Annotated[
        NodePolicy,
        Field(
            description="Fragmentation: where the least GPU is left that the pods seen so far cannot use. "
            "Binpack: the fullest node. Spread: the emptiest."
        ),
    ] = "Fragmentation"
    gpu: Annotated[
        tuple[GPUPolicy, ...],
        Field(
            min_length=1,
            max_length=6,
            description="Fragmentation, Binpack, Spread and Numa rank cards, the first one first. Mutex takes only cards that no "
            "slice is on. Topology chooses the best connected set of cards.",
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule("self.all(p, self.exists_one(q, q == p))", "each policy may be listed once"),
                    rule(
                        "!('Binpack' in self && 'Spread' in self)",
                        "Binpack and Spread contradict each other; keep one of them",
                    ),
                    rule(
                        "!('Topology' in self) || self.all(p, p in ['Topology', 'Mutex'])",
                        "Topology chooses the whole set of cards; a ranking beside it would do nothing: keep Topology, and Mutex "
                        "if wanted",
                    ),
                ]
            },
        ),
    ] = ("Fragmentation",)
    weights: Annotated[
        ScoringWeights | None,
        Field(
            description="For Binpack and Spread, of the pool or of a pod's annotation: compare the weighted mean of slots, cores "
            "and memory instead of the fullest of them."
        ),
    ] = None


_RANK = "{'Low': 0, 'Normal': 1, 'High': 2}"
ComputeWeight = Annotated[int, Field(ge=1, le=MAX_COMPUTE_WEIGHT)]


class PoolCompute(Model):
    """How slices share the time of a GPU: what holds for pods that do not choose, and how far a pod may go."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    f"{_RANK}[self.priority] <= {_RANK}[self.highestPriority]",
                    "compute.priority, which pods have without a choice, is above compute.highestPriority; raise the latter",
                ),
                rule(
                    "self.weight <= self.maxWeight",
                    "compute.weight, which pods have without a choice, is above compute.maxWeight; raise the latter",
                ),
            ]
        }
    )

    policy: Annotated[
        ComputePolicy,
        Field(description="Of slices with a cap. Strict: never more than their cores. Conserving: also time that others leave."),
    ] = "Strict"
    priority: Annotated[
        Priority,
        Field(description="While a slice of a higher class wants the GPU, lower ones get 2 % of its time."),
    ] = "Normal"
    highest_priority: Annotated[Priority, Field(description="The highest class that a pod may choose.")] = "Normal"
    weight: Annotated[
        ComputeWeight, Field(description="Slices without a cap divide what the capped ones leave by their weights.")
    ] = DEFAULT_WEIGHT
    max_weight: Annotated[ComputeWeight, Field(description="The greatest weight that a pod may choose.")] = DEFAULT_WEIGHT

    def rules(self) -> ComputeRules:
        """The same for decisions. Raises InvalidRequest for a word that this version does not know."""
        return ComputeRules(
            Compute(parse_policy("compute.policy", self.policy), parse_priority("compute.priority", self.priority), self.weight),
            highest_priority=parse_priority("compute.highestPriority", self.highest_priority),
            max_weight=self.max_weight,
        )


class GPUModeOverride(Model):
    """One GPU whose mode differs from the pool's."""

    uuid: Annotated[str, Field(min_length=1, max_length=80, description="As nvidia-smi -L and VGPUNode list it.")]
    mode: GPUMode


class NodeTemplate(Model):
    """A node as an autoscaler would add it to this pool."""

    gpus: Annotated[int, Field(ge=1, le=MAX_GPUS_OF_NODE, description="GPUs of the node.")]
    model: Annotated[
        str,
        Field(
            min_length=1, max_length=128, description="Product name as the driver gives it, for example NVIDIA H100 80GB HBM3."
        ),
    ]
    memory_mib: Annotated[int, Field(ge=1, le=2**24, alias="memoryMiB", description="Memory of each GPU in MiB.")]


_SHARED_BY_SEVERAL = (
    "self.maxSlicesPerGPU > 1 && (self.mode == 'Shared' || (has(self.gpus) && self.gpus.exists(g, g.mode == 'Shared')))"
)


def _needs_sharing(field: str) -> JsonValue:
    return rule(
        f"self.{field} == {NO_OVERCOMMIT} || ({_SHARED_BY_SEVERAL})",
        f"{field} above {NO_OVERCOMMIT} needs GPUs that several slices share: set maxSlicesPerGPU above 1 and mode Shared "
        f"(for the pool or for GPUs under gpus), or remove {field}",
    )


_NEEDS_NEIGHBOURS = rule(
    "(self.compute.priority == 'Normal' && self.compute.highestPriority == 'Normal' && self.compute.weight == "
    f"{DEFAULT_WEIGHT} && self.compute.maxWeight == {DEFAULT_WEIGHT}) || ({_SHARED_BY_SEVERAL})",
    "compute.priority, compute.highestPriority, compute.weight and compute.maxWeight decide between slices of one GPU: set "
    "maxSlicesPerGPU above 1 and mode Shared (for the pool or for GPUs under gpus), or remove them",
)


class VGPUPoolSpec(Model):
    """Wanted state."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                _needs_sharing("memoryOvercommitPercent"),
                _needs_sharing("coresOvercommitPercent"),
                _NEEDS_NEIGHBOURS,
            ]
        }
    )

    node_selector: NodeSelector = NodeSelector()
    max_slices_per_gpu: Annotated[
        int, Field(ge=1, le=MAX_SLICES, alias="maxSlicesPerGPU", description="Slices that may share one GPU of mode Shared.")
    ] = DEFAULT_MAX_SLICES
    memory_overcommit_percent: Annotated[
        Overcommit,
        Field(
            description="Memory given out per GPU of mode Shared, in percent of what the GPU has; 100: no overcommit. Each slice "
            "keeps its own limit and is never larger than the GPU. Above 100, what is allocated when the GPU is full lives on "
            "the host (managed memory) and is slow; what cannot live there is refused to whoever asks."
        ),
    ] = NO_OVERCOMMIT
    cores_overcommit_percent: Annotated[
        Overcommit,
        Field(description="Compute given out per GPU of mode Shared, in percent of one GPU; 100: no overcommit."),
    ] = NO_OVERCOMMIT
    mode: Annotated[
        GPUMode,
        Field(description="Shared: up to maxSlicesPerGPU slices on a GPU. Exclusive: one slice, of whatever size, has the GPU."),
    ] = "Shared"
    gpus: Annotated[
        list[GPUModeOverride] | None,
        Field(
            max_length=_MAX_OVERRIDES,
            description="Modes of single GPUs that differ from the pool's.",
            json_schema_extra=map_list("uuid"),
        ),
    ] = None
    placement: PoolPlacement = PoolPlacement()
    compute: PoolCompute = PoolCompute()
    template: Annotated[
        NodeTemplate | None,
        Field(
            description="What a new node of this pool would have. Used for one thing: a cluster autoscaler that simulates a node "
            "which does not exist yet is answered from it, so that the pool can grow from zero nodes. It never adds capacity."
        ),
    ] = None


class Amounts(Model):
    """Sums over the healthy GPUs of a pool; capacity includes overcommit."""

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
    cordoned: Annotated[int, Field(description="GPUs that nothing new is placed on; they still count as capacity.")] = 0
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
