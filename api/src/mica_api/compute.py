"""How the slices of a card share its time beyond their cores: policy, class of priority and weight.

A pod chooses by annotations, its pool says what holds without a choice and how far a choice may go. Admission, placement and the
node agent all ask here. How the time is lent out is the limiter's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from mica_api import names
from mica_api.request import MAX_CORES, InvalidRequest, PodRequest

ComputePolicy = Literal["strict", "conserving"]
"""Of a slice with a cap: never more than its cores, or also the time that others leave."""
Priority = Literal["low", "normal", "high"]
"""While a higher class wants the card, a lower one gets its floor only."""

COMPUTE_POLICIES: Final[tuple[ComputePolicy, ...]] = ("strict", "conserving")
PRIORITIES: Final[tuple[Priority, ...]] = ("low", "normal", "high")
"""Ascending."""
DEFAULT_POLICY: Final[ComputePolicy] = "strict"
DEFAULT_PRIORITY: Final[Priority] = "normal"
DEFAULT_WEIGHT: Final = 100
MAX_WEIGHT: Final = 10_000

_Word = TypeVar("_Word", bound=str)


def parse_policy(where: str, value: str) -> ComputePolicy:
    """A policy in any case; ``where`` names the source in the message. Raises InvalidRequest."""
    return _one_of(where, value, COMPUTE_POLICIES)


def parse_priority(where: str, value: str) -> Priority:
    """A class in any case; ``where`` names the source in the message. Raises InvalidRequest."""
    return _one_of(where, value, PRIORITIES)


def rank(priority: Priority) -> int:
    """Position of a class among all: a greater one comes first on the card."""
    return PRIORITIES.index(priority)


@dataclass(frozen=True, slots=True)
class ComputeChoice:
    """What a pod chooses; None leaves it to the pool."""

    policy: ComputePolicy | None = None
    priority: Priority | None = None
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """What holds for the slices of a pod."""

    policy: ComputePolicy = DEFAULT_POLICY
    priority: Priority = DEFAULT_PRIORITY
    weight: int = DEFAULT_WEIGHT


@dataclass(frozen=True, slots=True)
class ComputeRules:
    """What a pool says: ``default`` of what a pod leaves open, and the highest class and the greatest weight of its pods."""

    default: Compute = Compute()
    highest_priority: Priority = DEFAULT_PRIORITY
    max_weight: int = DEFAULT_WEIGHT

    def excess(self, choice: ComputeChoice) -> str | None:
        """What of a choice passes the pool's bounds, in words; None when nothing does."""
        parts = []
        if choice.priority is not None and rank(choice.priority) > rank(self.highest_priority):
            parts.append(f"{names.ANNOTATION_COMPUTE_PRIORITY} is {choice.priority}, the highest is {self.highest_priority}")
        if choice.weight is not None and choice.weight > self.max_weight:
            parts.append(f"{names.ANNOTATION_COMPUTE_WEIGHT} is {choice.weight}, the greatest is {self.max_weight}")
        return "; ".join(parts) or None

    def resolve(self, choice: ComputeChoice) -> Compute:
        """What holds for a pod with this choice: where it passes a bound, the bound."""
        return Compute(
            policy=choice.policy or self.default.policy,
            priority=min(choice.priority or self.default.priority, self.highest_priority, key=rank),
            weight=min(choice.weight or self.default.weight, self.max_weight),
        )


NO_CHOICE: Final = ComputeChoice()
DEFAULT_COMPUTE: Final = Compute()
DEFAULT_RULES: Final = ComputeRules()


def read_compute(annotations: Mapping[str, str]) -> ComputeChoice:
    """Choice of a pod by its annotations. Raises InvalidRequest, with what to write."""
    policy, priority, weight = (
        annotations.get(key)
        for key in (names.ANNOTATION_COMPUTE_POLICY, names.ANNOTATION_COMPUTE_PRIORITY, names.ANNOTATION_COMPUTE_WEIGHT)
    )
    return ComputeChoice(
        policy=None if policy is None else parse_policy(f"annotation {names.ANNOTATION_COMPUTE_POLICY}", policy),
        priority=None if priority is None else parse_priority(f"annotation {names.ANNOTATION_COMPUTE_PRIORITY}", priority),
        weight=None if weight is None else _weight(weight),
    )


def compute_annotations(choice: ComputeChoice) -> dict[str, str]:
    """Inverse of ``read_compute``."""
    return {key: str(value) for key, value in _items(choice) if value is not None}


def check_effect(request: PodRequest, choice: ComputeChoice) -> None:
    """Refuse a choice that could decide nothing for any container. Raises InvalidRequest, with what to change."""
    asking = [c for c in request.containers if c.asks]
    chosen = list(compute_annotations(choice))
    if asking and chosen and has_gpus_alone(request):
        raise InvalidRequest(
            f"annotation {chosen[0]} has no effect: the pod has its GPUs alone, nobody shares their time; remove it, or ask for "
            f"less than {MAX_CORES} of {names.RESOURCE_CORES}"
        )
    if choice.policy is not None and all(c.cores in (0, MAX_CORES) for c in asking):
        raise InvalidRequest(
            f"annotation {names.ANNOTATION_COMPUTE_POLICY} has no effect: no slice that shares its GPUs has a cap; "
            f"remove it, or add {names.RESOURCE_CORES}"
        )
    if choice.weight is not None and all(c.cores > 0 for c in asking):
        raise InvalidRequest(
            f"annotation {names.ANNOTATION_COMPUTE_WEIGHT} has no effect: it divides what capped slices leave among those "
            f"without a cap, and every container has {names.RESOURCE_CORES}; remove one of the two"
        )


def has_gpus_alone(request: PodRequest) -> bool:
    """Whether every slice of the pod is a whole card that nobody shares."""
    return all(c.exclusive for c in request.containers if c.asks)


def check_allowed(choice: ComputeChoice, pools: Iterable[ComputeRules]) -> None:
    """Refuse a choice that no pool allows; nothing is known of a cluster without any. Raises InvalidRequest."""
    known = list(pools)
    refusals = [pool.excess(choice) for pool in known]
    if not known or None in refusals:
        return
    most = max(known, key=lambda pool: (rank(pool.highest_priority), pool.max_weight))
    raise InvalidRequest(
        f"no VGPUPool allows this choice of compute: {most.excess(choice)}; write less, or have spec.compute.highestPriority and "
        "spec.compute.maxWeight of a pool raised"
    )


def _items(choice: ComputeChoice) -> tuple[tuple[str, str | int | None], ...]:
    return (
        (names.ANNOTATION_COMPUTE_POLICY, choice.policy),
        (names.ANNOTATION_COMPUTE_PRIORITY, choice.priority),
        (names.ANNOTATION_COMPUTE_WEIGHT, choice.weight),
    )


def _one_of(where: str, value: str, words: tuple[_Word, ...]) -> _Word:
    lowered = value.strip().lower()
    for word in words:
        if word == lowered:
            return word
    raise InvalidRequest(f"{where} is {value[:64]!r}; it must be one of {', '.join(words)}")


def _weight(value: str) -> int:
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_WEIGHT)) and 1 <= int(text) <= MAX_WEIGHT:
        return int(text)
    raise InvalidRequest(
        f"annotation {names.ANNOTATION_COMPUTE_WEIGHT} is {value[:64]!r}; write a whole number from 1 to {MAX_WEIGHT}"
    )
