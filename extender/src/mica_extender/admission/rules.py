"""What a pod on slices may not say, with what to change. The same list for the changed pod and for the final one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mica_api import names
from mica_api.compute import ComputeRules
from mica_extender.admission.catalogue import Catalogue
from mica_extender.admission.pod import (
    Body,
    Container,
    Refusal,
    Refused,
    annotations_of,
    app_containers,
    init_containers,
    is_ours,
    mapping,
    spec_of,
)

FORBIDDEN_ENV: Final = frozenset({"LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES"})
FORBIDDEN_CAPABILITIES: Final = frozenset({"SYS_ADMIN", "SYS_PTRACE", "ALL"})
"""What could unmount the limiter, or take its variables and its memory from it. Variables from envFrom cannot be seen here; the
node agent sets the forbidden ones empty."""
STRIPPED_ENV: Final = frozenset(
    {
        "NVIDIA_VISIBLE_DEVICES",
        "CUDA_DEVICE_SM_LIMIT",
        "CUDA_DEVICE_MEMORY_SHARED_CACHE",
        "CUDA_DISABLE_CONTROL",
        "CUDA_OVERSUBSCRIBE",
        "CUDA_TASK_PRIORITY",
        "GPU_CORE_UTILIZATION_POLICY",
        "LIBCUDA_LOG_LEVEL",
    }
)
STRIPPED_ENV_PREFIXES: Final = ("CUDA_DEVICE_MEMORY_LIMIT",)
DEFAULT_SCHEDULERS: Final = ("default-scheduler", names.SCHEDULER_NAME, "hami-scheduler", "volcano")


@dataclass(frozen=True, slots=True)
class Rules:
    """What an installation accepts.

    ``schedulers``: schedulerNames that are taken over beside our own; a pod that names another one means that one.
    ``catalogue``: the GPUs of the cluster, for warnings. ``compute``: what each pool lets its pods choose.
    """

    schedulers: frozenset[str] = field(default_factory=lambda: frozenset(DEFAULT_SCHEDULERS))
    catalogue: Catalogue = field(default_factory=Catalogue)
    compute: tuple[ComputeRules, ...] = ()


def check_pod(pod: Body, rules: Rules) -> None:
    """Everything that can be said before the request is read. Raises Refused."""
    spec = spec_of(pod)
    _check_scheduler(str(spec.get("schedulerName") or ""), rules)
    if spec.get("nodeName"):
        raise Refused(
            "spec.nodeName is set: the pod would bypass placement; remove it and use a nodeSelector", Refusal.BYPASSES_PLACEMENT
        )
    if spec.get("hostPID") is True:
        raise Refused("spec.hostPID is not possible with GPU slices; remove it", Refusal.SWITCHES_LIMITS_OFF)
    for container in init_containers(pod):
        if container.limits:
            raise Refused(
                f"init container {container.name} asks for a GPU slice; not supported yet: move the request to an app container",
                Refusal.INIT_CONTAINER,
            )
    for container in (*app_containers(pod), *init_containers(pod)):
        _check_container(container)
    _check_annotations(annotations_of(pod))


def is_stripped(variable: str) -> bool:
    """Whether an environment variable is another limiter's knob, which would do nothing or contradict the slice."""
    return variable in STRIPPED_ENV or variable.startswith(STRIPPED_ENV_PREFIXES)


def _check_scheduler(name: str, rules: Rules) -> None:
    if name and name != names.SCHEDULER_NAME and name not in rules.schedulers:
        raise Refused(
            f"spec.schedulerName is {name!r}: GPU slices are placed by {names.SCHEDULER_NAME}; remove schedulerName from the pod",
            Refusal.BYPASSES_PLACEMENT,
        )


def _check_container(container: Container) -> None:
    if mapping(container.body.get("securityContext")).get("privileged") is True:
        raise Refused(
            f"container {container.name} is privileged: it would see every GPU of the node; remove securityContext.privileged",
            Refusal.SWITCHES_LIMITS_OFF,
        )
    added = mapping(mapping(container.body.get("securityContext")).get("capabilities")).get("add")
    for capability in added if isinstance(added, list) else []:
        if str(capability).upper().removeprefix("CAP_") in FORBIDDEN_CAPABILITIES:
            raise Refused(
                f"container {container.name} adds the capability {capability}: it can switch off the limits of the slice; "
                "remove it from securityContext.capabilities.add",
                Refusal.SWITCHES_LIMITS_OFF,
            )
    for variable in container.env:
        name = str(variable.get("name", ""))
        if name in FORBIDDEN_ENV:
            words = f"container {container.name} sets {name}: it can switch off the limits of the slice; remove it"
            raise Refused(words, Refusal.SWITCHES_LIMITS_OFF)


def _check_annotations(annotations: dict[str, str]) -> None:
    for key in sorted(annotations):
        if key.startswith(names.ALLOCATION_PREFIX):
            raise Refused(f"annotation {key} is written by the scheduler alone; remove it", Refusal.FORGED_DECISION)
        if key in names.POD_ANNOTATIONS:
            continue
        if key.startswith(f"{names.GROUP}/") and key not in names.RESOURCES:
            known = ", ".join(sorted(names.POD_ANNOTATIONS - {names.ANNOTATION_REQUEST, names.ANNOTATION_ORIGINAL}))
            raise Refused(f"there is no annotation {key}; known are {known}", Refusal.UNKNOWN_ANNOTATION)
        if is_ours(key):
            words = f"annotation {key} has no effect: amounts belong in resources.limits of a container; move it there"
            raise Refused(words, Refusal.UNKNOWN_ANNOTATION)
