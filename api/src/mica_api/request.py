"""What a pod asks for, in one normal form, and its exact form in the request annotation.

Admission writes the annotation, the extender decides by it and the node agent checks decisions by it; all three read it here.
Not a parser of other systems' resource names: that is ``dialects``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from mica_api import names

MIB_PER_GIB: Final = 1024
MAX_NUMBER: Final = 16
"""GPUs of one container: what the limits file, the usage region and 4 KiB of a decision can hold."""
MAX_ASKING: Final = 8
"""Containers of one pod that ask for slices."""
MAX_SIZES: Final = 6
"""Different slices (cores and memory) in one pod. Both bounds keep an exact answer for several containers cheap."""
MAX_CORES: Final = 100
MAX_MIB: Final = 2**31
_VERSION: Final = 1
_VERSION_WITH_INIT: Final = 2
"""Of requests with slices on init containers. Readers that do not know it refuse the pod instead of forgetting them."""
_QUANTITY: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(?:([kMGT]|[KMGT]i)|[eE](\d{1,2}))?", re.ASCII)
_SUFFIXES: Final = {
    **{letter: 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


class InvalidRequest(ValueError):
    """The request cannot be meant as written; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """Slices of one app container.

    ``number`` distinct physical GPUs (0: none); on each of them ``cores`` percent of the compute (0: uncapped, 100: the card
    alone) and ``memory_mib`` MiB or ``memory_percent`` of the card's memory (both 0: all of it).
    """

    name: str
    number: int = 0
    cores: int = 0
    memory_mib: int = 0
    memory_percent: int = 0

    def __post_init__(self) -> None:
        _check_range(self.name, "number of GPUs", self.number, MAX_NUMBER)
        _check_range(self.name, names.RESOURCE_CORES, self.cores, MAX_CORES)
        _check_range(self.name, "memory in MiB", self.memory_mib, MAX_MIB)
        _check_range(self.name, "memory in percent", self.memory_percent, 100)
        if self.memory_mib and self.memory_percent:
            raise InvalidRequest(f"container {self.name}: memory is given in MiB and in percent; write one of them")

    @property
    def asks(self) -> bool:
        """Whether the container wants any slice."""
        return self.number > 0

    @property
    def exclusive(self) -> bool:
        """Whether each card must be its own."""
        return self.cores == MAX_CORES

    def memory_on(self, card_mib: int) -> int:
        """MiB that the request means on a card of ``card_mib`` MiB (percentages are rounded down)."""
        if self.memory_percent:
            return card_mib * self.memory_percent // 100
        return self.memory_mib or card_mib


@dataclass(frozen=True, slots=True)
class InitRequest:
    """Slices of one init container. ``restartable``: a sidecar, which starts in its turn and then runs beside the app."""

    container: ContainerRequest
    restartable: bool = False


@dataclass(frozen=True, slots=True)
class PodRequest:
    """Requests of all app containers, in the order of ``spec.containers``.

    ``init`` is empty, or has all init containers in their order when one of them asks for slices.
    """

    containers: tuple[ContainerRequest, ...]
    init: tuple[InitRequest, ...] = ()

    def __post_init__(self) -> None:
        asking = [c for c in (*self.containers, *(i.container for i in self.init)) if c.asks]
        if len(asking) > MAX_ASKING:
            raise InvalidRequest(f"{len(asking)} containers ask for GPU slices, at most {MAX_ASKING} may: use several pods")
        sizes = len({(c.cores, c.memory_mib, c.memory_percent) for c in asking})
        if sizes > MAX_SIZES:
            raise InvalidRequest(
                f"the containers ask for {sizes} different amounts of memory and cores, at most {MAX_SIZES} may differ: "
                "give some of them the same amounts, or use several pods"
            )

    @property
    def asks(self) -> bool:
        """Whether any container wants a slice."""
        return any(c.asks for c in self.containers) or any(i.container.asks for i in self.init)


def encode_request(request: PodRequest) -> str:
    """Value of the request annotation: compact, versioned JSON; its version is higher where init containers have slices."""
    body: dict[str, Any] = {"v": _VERSION, "containers": [_container_item(c) for c in request.containers]}
    if request.init:
        body["v"] = _VERSION_WITH_INIT
        body["init"] = [{**_container_item(i.container), "restartable": i.restartable} for i in request.init]
    return json.dumps(body, separators=(",", ":"))


def _container_item(c: ContainerRequest) -> dict[str, Any]:
    return {"name": c.name, "number": c.number, "cores": c.cores, "mem": c.memory_mib, "memPercent": c.memory_percent}


def decode_request(value: str) -> PodRequest:
    """Inverse of ``encode_request``. Raises InvalidRequest when the value is not one of ours."""
    try:
        raw: Any = json.loads(value)
        if raw["v"] not in (_VERSION, _VERSION_WITH_INIT):
            known = f"{_VERSION} and {_VERSION_WITH_INIT}"
            raise InvalidRequest(f"annotation {names.ANNOTATION_REQUEST} has version {raw['v']!r}, known are {known}")
        init = raw["init"] if raw["v"] == _VERSION_WITH_INIT else ()
        return PodRequest(tuple(_decode_container(item) for item in raw["containers"]), tuple(_decode_init(i) for i in init))
    except InvalidRequest:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidRequest(f"annotation {names.ANNOTATION_REQUEST} is malformed: {error!r}") from error


def read_request(containers: Sequence[tuple[str, Mapping[str, str]]], annotations: Mapping[str, str]) -> PodRequest:
    """Request of an admitted pod: ``containers`` are (name, resource limits) of the app containers.

    The annotation gives the exact amounts, the resources prove it: names, numbers and cores must agree, and so must memory where
    the resource states it. Raises InvalidRequest when they do not, or when the annotation is missing.
    """
    value = annotations.get(names.ANNOTATION_REQUEST)
    if value is None:
        raise InvalidRequest(
            f"annotation {names.ANNOTATION_REQUEST} is missing: the pod was not admitted by Mica's webhook; create it again"
        )
    request = decode_request(value)
    if request.init:
        raise InvalidRequest(
            f"annotation {names.ANNOTATION_REQUEST} has slices on init containers, which are not supported yet: "
            "move the request to an app container"
        )
    if [c.name for c in request.containers] != [name for name, _ in containers]:
        raise InvalidRequest(f"annotation {names.ANNOTATION_REQUEST} does not list the pod's containers in order")
    for wanted, (name, limits) in zip(request.containers, containers, strict=True):
        stated = canonical_resources(wanted)
        actual = {key: count for key in names.RESOURCES if (count := parse_count(name, key, limits.get(key, "0")))}
        if stated != actual:
            raise InvalidRequest(
                f"container {name}: resources {actual} and annotation {names.ANNOTATION_REQUEST} ({stated}) differ"
            )
    return request


def canonical_resources(request: ContainerRequest) -> dict[str, int]:
    """Resources that admission writes for a request.

    Memory that is no whole number of GiB is left to the annotation: rounding it would charge the kubelet's node total wrongly.
    """
    if not request.asks:
        return {}
    resources = {names.RESOURCE_NUMBER: request.number}
    if request.cores:
        resources[names.RESOURCE_CORES] = request.cores
    if request.memory_mib and request.memory_mib % MIB_PER_GIB == 0:
        resources[names.RESOURCE_MEMORY] = request.memory_mib // MIB_PER_GIB
    return resources


def parse_count(container: str, resource: str, value: str | int) -> int:
    """Extended resources are whole, non-negative numbers, which the API server stores as quantities (3000 as ``3k``).

    Raises InvalidRequest for anything else.
    """
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    matched = _QUANTITY.fullmatch(text)
    if matched is not None:
        number, suffix, exponent = matched.groups()
        amount = Fraction(number) * (_SUFFIXES[suffix] if suffix else 10 ** int(exponent or 0))
        if amount.denominator == 1 and amount < 10**12:
            return int(amount)
    raise InvalidRequest(f"container {container}: {resource} is {value!r}; write a whole number that is not negative")


def _decode_container(item: Any) -> ContainerRequest:
    values = (item["number"], item["cores"], item["mem"], item["memPercent"])
    if not isinstance(item["name"], str) or any(type(v) is not int for v in values):
        raise InvalidRequest(f"annotation {names.ANNOTATION_REQUEST} is malformed: {item!r}")
    number, cores, memory_mib, percent = values
    return ContainerRequest(item["name"], number=number, cores=cores, memory_mib=memory_mib, memory_percent=percent)


def _decode_init(item: Any) -> InitRequest:
    if not isinstance(item["restartable"], bool):
        raise InvalidRequest(f"annotation {names.ANNOTATION_REQUEST} is malformed: {item!r}")
    return InitRequest(_decode_container(item), item["restartable"])


def _check_range(container: str, what: str, value: int, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise InvalidRequest(f"container {container}: {what} is {value}; it must be between 0 and {maximum}")
