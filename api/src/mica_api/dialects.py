"""Resource names of Mica, HAMi, Volcano vGPU and Flex:ai, and their translation into one request.

A table, not a plugin system: each dialect says which key means what and which defaults its users are used to. Selection
annotations are in ``selection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mica_api import names
from mica_api.compute import Priority
from mica_api.request import (
    MAX_CORES,
    MAX_MIB,
    MIB_PER_GIB,
    ContainerRequest,
    InvalidRequest,
    parse_count,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Resource names of one system.

    ``memory`` maps a resource name to its unit in MiB. ``percent_wins`` says which of memory and percentage counts when both
    are written. ``number_only_cores`` is the compute that a bare number means (0: uncapped, 100: the card alone).
    ``implied_by`` lists the resources that mean one GPU when no number is written; others are refused without a number.
    ``type_prefix`` begins resources that choose the card's type, with the type behind it and 1 as amount.
    ``priority`` is a resource whose amount chooses the class of the pod's slices (see ``compute``).
    """

    name: str
    number: str
    cores: str
    memory: Mapping[str, int]
    percentage: str | None = None
    percent_wins: bool = False
    number_only_cores: int = MAX_CORES
    implied_by: frozenset[str] = field(default_factory=frozenset)
    cores_step: int = 1
    priority: str | None = None
    priorities: Mapping[int, Priority] = field(default_factory=dict)
    refused_prefixes: tuple[str, ...] = ()
    type_prefix: str | None = None

    @property
    def resources(self) -> tuple[str, ...]:
        """Every resource name that belongs to the dialect by exact name."""
        return (*self.known, *((self.priority,) if self.priority else ()))

    @property
    def known(self) -> tuple[str, ...]:
        """Every resource name that has a meaning."""
        return (self.number, self.cores, *self.memory, *((self.percentage,) if self.percentage else ()))

    def owns(self, resource: str) -> bool:
        """Whether a resource name is of this dialect."""
        return resource in self.resources or resource.startswith(self.prefixes)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What names of the dialect may begin with, beside the exact ones."""
        return (*self.refused_prefixes, *((self.type_prefix,) if self.type_prefix else ()))


MICA: Final = Dialect(
    "Mica",
    number=names.RESOURCE_NUMBER,
    cores=names.RESOURCE_CORES,
    memory={names.RESOURCE_MEMORY: MIB_PER_GIB},
    implied_by=frozenset({names.RESOURCE_CORES, names.RESOURCE_MEMORY}),
    refused_prefixes=(f"{names.GROUP}/",),
)
HAMI: Final = Dialect(
    "HAMi",
    number="nvidia.com/gpu",
    cores="nvidia.com/gpucores",
    memory={"nvidia.com/gpumem": 1},
    percentage="nvidia.com/gpumem-percentage",
    implied_by=frozenset({"nvidia.com/gpucores", "nvidia.com/gpumem", "nvidia.com/gpumem-percentage"}),
    priority="nvidia.com/priority",
    priorities={0: "high", 1: "low"},
    refused_prefixes=("nvidia.com/mig-",),
)
VOLCANO: Final = Dialect(
    "Volcano vGPU",
    number="volcano.sh/vgpu-number",
    cores="volcano.sh/vgpu-cores",
    memory={"volcano.sh/vgpu-memory": 1},
    percentage="volcano.sh/vgpu-memory-percentage",
    percent_wins=True,
    number_only_cores=0,
    implied_by=frozenset({"volcano.sh/vgpu-memory", "volcano.sh/vgpu-memory-percentage"}),
)
FLEXAI: Final = Dialect(
    "Flex:ai",
    number="huawei.com/vgpu-number",
    cores="huawei.com/vgpu-cores",
    memory={"huawei.com/vgpu-memory.1Gi": MIB_PER_GIB, "huawei.com/vgpu-memory-1Gi": MIB_PER_GIB},
    cores_step=5,
    type_prefix="huawei.com/vgpu-type.",
)
DIALECTS: Final = (MICA, HAMI, VOLCANO, FLEXAI)


def dialect_of(container: str, limits: Mapping[str, str]) -> Dialect | None:
    """The one dialect that a container's resources are written in, or None. Raises InvalidRequest for a mix."""
    found = [d for d in DIALECTS if any(d.owns(resource) for resource in limits)]
    if len(found) > 1:
        systems = " and ".join(d.name for d in found)
        raise InvalidRequest(f"container {container}: resources of {systems} are mixed; write the whole request in one of them")
    return found[0] if found else None


def match_expression(pod: str = "object") -> str:
    """CEL expression: does the pod at ``pod`` name a resource of any dialect, in limits or requests of any container?

    Cheap, and true for more than can be translated: what it lets through is answered in words by the webhook.
    """
    exact = ", ".join(f"'{name}'" for dialect in DIALECTS for name in dialect.resources)
    prefixes = [f"k.startsWith('{prefix}')" for dialect in DIALECTS for prefix in dialect.prefixes]
    named = " || ".join([f"k in [{exact}]", *prefixes])
    containers = f"({pod}.spec.containers + {pod}.spec.?initContainers.orValue([]))"
    parts = [f"c.?resources.{kind}.orValue({{}}).exists(k, {named})" for kind in ("limits", "requests")]
    return f"{containers}.exists(c, {' || '.join(parts)})"


def translate(container: str, limits: Mapping[str, str]) -> ContainerRequest:
    """Request of one container in normal form. Raises InvalidRequest, with what to change."""
    dialect = dialect_of(container, limits)
    if dialect is None:
        return ContainerRequest(container)
    _refuse(container, dialect, limits)
    number = _count(container, limits, dialect.number)
    cores = _cores(container, dialect, limits)
    mib, percent = _memory(container, dialect, limits)
    if number == 0:
        return _nothing(container, dialect, cores or mib or percent)
    if number is None:
        number = _implied_number(container, dialect, limits)
    if cores is None:
        cores = 0 if mib or percent not in (0, 100) else dialect.number_only_cores
    if percent == 100:
        percent = 0
    return ContainerRequest(container, number=number, cores=cores, memory_mib=mib, memory_percent=percent)


def card_types(container: str, limits: Mapping[str, str]) -> frozenset[str]:
    """Types of card that a container's resources choose. Raises InvalidRequest for an amount that is neither 0 nor 1."""
    found: set[str] = set()
    for dialect in (dialect for dialect in DIALECTS if dialect.type_prefix is not None):
        prefix = dialect.type_prefix or ""
        for resource in (resource for resource in limits if resource.startswith(prefix)):
            chosen = parse_count(container, resource, limits[resource])
            if chosen > 1 or resource == prefix:
                raise InvalidRequest(f"container {container}: {resource} is {chosen}; write {prefix}<type>: 1")
            if chosen:
                found.add(resource.removeprefix(prefix))
    return frozenset(found)


def priority_class(container: str, limits: Mapping[str, str]) -> Priority | None:
    """Class that a container's resources choose. Raises InvalidRequest for an amount that is none of the dialect's."""
    for dialect in (dialect for dialect in DIALECTS if dialect.priority in limits):
        resource = dialect.priority or ""
        chosen = dialect.priorities.get(parse_count(container, resource, limits[resource]))
        if chosen is None:
            known = " or ".join(f"{value} ({word})" for value, word in dialect.priorities.items())
            raise InvalidRequest(f"container {container}: {resource} is {limits[resource]}; write {known}")
        return chosen
    return None


def _nothing(container: str, dialect: Dialect, amounts: int | None) -> ContainerRequest:
    if amounts:
        raise InvalidRequest(
            f"container {container}: {dialect.number} is 0 but cores or memory are requested; remove them or ask for at least 1"
        )
    return ContainerRequest(container)


def _implied_number(container: str, dialect: Dialect, limits: Mapping[str, str]) -> int:
    if any(resource in limits for resource in dialect.implied_by):
        return 1
    raise InvalidRequest(f"container {container}: {dialect.name} resources without {dialect.number}; add {dialect.number}: 1")


def _refuse(container: str, dialect: Dialect, limits: Mapping[str, str]) -> None:
    for resource in limits:
        typed = dialect.type_prefix is not None and resource.startswith(dialect.type_prefix)
        if resource not in dialect.resources and not typed and resource.startswith(dialect.refused_prefixes):
            raise InvalidRequest(
                f"container {container}: {resource} is not supported; ask for a slice with {', '.join(dialect.known)}, "
                f"and choose the card with the annotation {names.ANNOTATION_USE_MODEL}"
            )


def _count(container: str, limits: Mapping[str, str], resource: str) -> int | None:
    return parse_count(container, resource, limits[resource]) if resource in limits else None


def _cores(container: str, dialect: Dialect, limits: Mapping[str, str]) -> int | None:
    cores = _count(container, limits, dialect.cores)
    if cores is not None and cores > MAX_CORES:
        raise InvalidRequest(
            f"container {container}: {dialect.cores} is {cores}; it is percent of one GPU, at most {MAX_CORES}; "
            f"for more compute ask for more GPUs with {dialect.number}"
        )
    if cores is not None and cores % dialect.cores_step:
        raise InvalidRequest(f"container {container}: {dialect.cores} is {cores}; it must be a multiple of {dialect.cores_step}")
    return cores


def _memory(container: str, dialect: Dialect, limits: Mapping[str, str]) -> tuple[int, int]:
    """MiB and percent, at most one of them not zero (both zero: not stated)."""
    stated = {r: _amount(container, r, limits[r], unit) for r, unit in dialect.memory.items() if r in limits}
    if len(set(stated.values())) > 1:
        raise InvalidRequest(f"container {container}: {' and '.join(stated)} differ; write one of them")
    mib = next(iter(stated.values()), 0)
    percent = _percentage(container, dialect, limits)
    if mib and percent:
        return (0, percent) if dialect.percent_wins else (mib, 0)
    return mib, percent


def _amount(container: str, resource: str, value: str, unit_mib: int) -> int:
    """MiB. A value that only makes sense in bytes is the commonest mistake, and gets the number that was meant."""
    mib = parse_count(container, resource, value) * unit_mib
    if mib <= MAX_MIB:
        return mib
    unit, meant = ("GiB" if unit_mib > 1 else "MiB"), parse_count(container, resource, value) // (unit_mib << 20)
    raise InvalidRequest(f"container {container}: {resource} counts {unit}, not bytes: instead of {value} write {meant}")


def _percentage(container: str, dialect: Dialect, limits: Mapping[str, str]) -> int:
    if dialect.percentage is None or dialect.percentage not in limits:
        return 0
    percent = parse_count(container, dialect.percentage, limits[dialect.percentage])
    if percent > 100:
        raise InvalidRequest(f"container {container}: {dialect.percentage} is {percent}; at most 100")
    return percent
