"""Names of placement policies and scoring weights, and which combinations of them mean something.

Values and their spelling in annotations and pools. How a policy turns into a choice is the extender's placement engine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from mica_api.request import InvalidRequest

NodePolicy = Literal["fragmentation", "binpack", "spread"]
"""Which of the nodes that a pod fits on is best."""
CardPolicy = Literal["fragmentation", "binpack", "spread", "numa", "mutex", "topology"]
"""Which cards of a node are best: four sort keys, a filter (``mutex``) and a choice of the whole set (``topology``)."""

NODE_POLICIES: Final[tuple[NodePolicy, ...]] = ("fragmentation", "binpack", "spread")
CARD_POLICIES: Final[tuple[CardPolicy, ...]] = ("fragmentation", "binpack", "spread", "numa", "mutex", "topology")
DEFAULT_NODE_POLICY: Final[NodePolicy] = "fragmentation"
DEFAULT_CARD_POLICY: Final[tuple[CardPolicy, ...]] = ("fragmentation",)
MAX_WEIGHT: Final = 1_000_000

_ALIASES: Final = {"topology-aware": "topology"}
_WEIGHT: Final = re.compile(r"\s*(slot|core|memory)\s*=\s*(\d{1,7})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Weights:
    """How much slices, cores and memory count in a card's fullness; at least one is positive. Raises InvalidRequest."""

    slot: int
    core: int
    memory: int

    def __post_init__(self) -> None:
        values = (self.slot, self.core, self.memory)
        if not all(0 <= value <= MAX_WEIGHT for value in values) or not any(values):
            raise InvalidRequest(f"scoring weights must be between 0 and {MAX_WEIGHT} with at least one positive, not {values}")


def parse_node_policy(where: str, value: str) -> NodePolicy:
    """One node policy in any case. ``where`` names the source in the message. Raises InvalidRequest."""
    lowered = value.strip().lower()
    if lowered not in NODE_POLICIES:
        raise InvalidRequest(f"{where} is {value!r}; it must be one of {', '.join(NODE_POLICIES)}")
    return lowered


def parse_card_policy(where: str, value: str) -> tuple[CardPolicy, ...]:
    """A comma list of card policies, most important first. Raises InvalidRequest."""
    return check_card_policy(where, value.split(","))


def check_card_policy(where: str, policies: Sequence[str]) -> tuple[CardPolicy, ...]:
    """Card policies in their normal spelling. Raises InvalidRequest for one that is unknown, repeated or contradicts another."""
    lowered = [part.strip().lower() for part in policies]
    known = [_ALIASES.get(part, part) for part in lowered]
    if not known or any(part not in CARD_POLICIES for part in known):
        written = ",".join(policies)
        raise InvalidRequest(f"{where} is {written!r}; it must be a list of {', '.join(CARD_POLICIES)}")
    for part, count in Counter(known).items():
        if count > 1:
            raise InvalidRequest(f"{where} lists {part} {count} times; keep one")
    if {"binpack", "spread"} <= set(known):
        raise InvalidRequest(f"{where} lists binpack and spread, which want opposite cards; keep one")
    if "topology" in known and set(known) - {"topology", "mutex"}:
        raise InvalidRequest(
            f"{where} lists other policies beside topology, which alone chooses the whole set of cards; "
            "keep topology, with mutex if wanted, or remove it"
        )
    return tuple(cast("CardPolicy", part) for part in known)


def parse_weights(where: str, value: str) -> Weights:
    """``slot=1,core=1,memory=3``: all three, non-negative, at least one positive. Raises InvalidRequest."""
    found: dict[str, int] = {}
    for part in value.split(","):
        matched = _WEIGHT.fullmatch(part)
        if matched is None or matched[1] in found:
            found.clear()
            break
        found[matched[1]] = int(matched[2])
    if len(found) != 3 or max(found.values()) > MAX_WEIGHT or not any(found.values()):
        raise InvalidRequest(
            f"{where} is {value!r}; write slot, core and memory once each, as in slot=1,core=1,memory=3, "
            f"with whole numbers from 0 to {MAX_WEIGHT} of which one is positive"
        )
    return Weights(slot=found["slot"], core=found["core"], memory=found["memory"])
