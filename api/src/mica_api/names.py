"""Every name that crosses a process boundary: resources, labels, annotations, kinds, well-known objects.

Declared once, so that a rename is one line and documentation can be checked against it. Nothing here can be configured.
"""

from typing import Final

GROUP: Final = "mica.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

RESOURCE_NUMBER: Final = f"{GROUP}/vgpu-number"
RESOURCE_CORES: Final = f"{GROUP}/vgpu-cores"
RESOURCE_MEMORY: Final = f"{GROUP}/vgpu-memory-1Gi"
RESOURCES: Final = (RESOURCE_NUMBER, RESOURCE_CORES, RESOURCE_MEMORY)

SCHEDULER_NAME: Final = "mica-scheduler"
"""Scheduler profile of slice pods and name of the Lease its replicas elect their leader with."""

LABEL_SLICE: Final = f"{GROUP}/slice"
LABEL_SLICE_VALUE: Final = "true"
LABEL_INFERENCE_SERVICE: Final = f"{GROUP}/inference-service"
LABEL_TIER: Final = f"{GROUP}/tier"
"""On the Services of an InferenceService, and so on their EndpointSlices: gpu or cpu. Without it: gpu."""
LABEL_CPU_ENGINE: Final = f"{GROUP}/cpu-engine"
"""On pods of the CPU tier, which must not be taken for replicas of the GPU tier: name of the InferenceService."""

ANNOTATION_REQUEST: Final = f"{GROUP}/request"
ANNOTATION_ORIGINAL: Final = f"{GROUP}/original-resources"
ALLOCATION_PREFIX: Final = f"alloc.{GROUP}/"

ANNOTATION_NODE_POLICY: Final = f"{GROUP}/node-policy"
ANNOTATION_GPU_POLICY: Final = f"{GROUP}/gpu-policy"
ANNOTATION_WEIGHTS: Final = f"{GROUP}/scoring-weights"
ANNOTATION_NUMA_BIND: Final = f"{GROUP}/numa-bind"
ANNOTATION_USE_MODEL: Final = f"{GROUP}/use-gpu-model"
ANNOTATION_AVOID_MODEL: Final = f"{GROUP}/avoid-gpu-model"
ANNOTATION_USE_UUID: Final = f"{GROUP}/use-gpu-uuid"
ANNOTATION_AVOID_UUID: Final = f"{GROUP}/avoid-gpu-uuid"

ANNOTATION_COMPUTE_POLICY: Final = f"{GROUP}/compute-policy"
ANNOTATION_COMPUTE_PRIORITY: Final = f"{GROUP}/compute-priority"
ANNOTATION_COMPUTE_WEIGHT: Final = f"{GROUP}/compute-weight"
"""How a pod's slices share the time of their GPUs. Unlike the others they may be changed while the pod runs."""

POD_ANNOTATIONS: Final = frozenset(
    {
        ANNOTATION_REQUEST,
        ANNOTATION_ORIGINAL,
        ANNOTATION_NODE_POLICY,
        ANNOTATION_GPU_POLICY,
        ANNOTATION_WEIGHTS,
        ANNOTATION_NUMA_BIND,
        ANNOTATION_USE_MODEL,
        ANNOTATION_AVOID_MODEL,
        ANNOTATION_USE_UUID,
        ANNOTATION_AVOID_UUID,
        ANNOTATION_COMPUTE_POLICY,
        ANNOTATION_COMPUTE_PRIORITY,
        ANNOTATION_COMPUTE_WEIGHT,
    }
)
"""Annotations under our own prefix that mean something on a pod; others are refused as misspelt."""

ANNOTATION_CORDONED: Final = f"{GROUP}/cordoned-gpus"
"""On a Node: comma list of the UUIDs of GPUs that nothing new is placed on."""

ANNOTATION_POKE: Final = f"{GROUP}/poke"
POKE_OBJECT: Final = "mica-poke"

FINALIZER: Final = f"{GROUP}/cleanup"
"""Put on objects by versions before 0.2 and taken off again; nothing needs it."""
ANNOTATION_APPLIED: Final = f"{GROUP}/applied"
"""Digest of what the operator last applied: a field that is no longer wanted is a change too, and comparing values misses it."""

MANAGER_OPERATOR: Final = "mica-operator"
MANAGER_NODE_AGENT: Final = "mica-node-agent"
MANAGER_EXTENDER: Final = "mica-extender"
"""Field managers of server-side apply and reporters of events."""
DEFAULT_POOL: Final = "default"

CDI_KIND: Final = f"{GROUP}/slice"


def allocation_annotation(index: int) -> str:
    """Annotation that holds the decision for the app container at ``index`` of ``spec.containers``."""
    return f"{ALLOCATION_PREFIX}c{index}"
