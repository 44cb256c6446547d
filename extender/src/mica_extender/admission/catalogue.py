"""Which cards the cluster has, as far as admission wants to know: models, sizes and how many of them a node has.

Made once per change of the inventory, not at every review. It decides nothing: a card that is not there today may come tomorrow,
with a node that an autoscaler adds, so that what no card fits is a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mica_api import names
from mica_api.request import PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card

_Kind = tuple[str, int]
"""Model and memory in MiB."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """``nodes``: each make of node once, as its number of cards by model and memory. ``uuids``: node and kind of each card."""

    nodes: frozenset[frozenset[tuple[_Kind, int]]] = frozenset()
    uuids: Mapping[str, tuple[str, _Kind]] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Mapping[str, Sequence[Card]]) -> Catalogue:
        """From the cards of every node."""
        makes = {frozenset(Counter((c.model, c.memory_mib) for c in cards).items()) for cards in nodes.values() if cards}
        uuids = {card.uuid: (name, (card.model, card.memory_mib)) for name, cards in nodes.items() for card in cards}
        return cls(frozenset(makes), uuids)

    def accepted(self, selection: Selection) -> list[Counter[_Kind]]:
        """Per make of node the cards that a pod's filters let through; nodes without any are left out."""
        makes = self._named(selection) if selection.use_uuids else [Counter(dict(make)) for make in self.nodes]
        kept = (Counter({kind: n for kind, n in make.items() if selection.accepts_model(kind[0])}) for make in makes)
        return [make for make in kept if make]

    def _named(self, selection: Selection) -> list[Counter[_Kind]]:
        found: dict[str, Counter[_Kind]] = {}
        for uuid in selection.use_uuids:
            if uuid in self.uuids and selection.accepts_uuid(uuid):
                node, kind = self.uuids[uuid]
                found.setdefault(node, Counter())[kind] += 1
        return list(found.values())

    def doubts(self, request: PodRequest, selection: Selection) -> tuple[str, ...]:
        """What no node of today can satisfy, in words; empty while nothing is known of any card."""
        if not self.nodes:
            return ()
        accepted = self.accepted(selection)
        if not accepted:
            models = ", ".join(sorted({model for make in self.nodes for (model, _), _ in make}))
            return (
                f"no GPU of this cluster matches the pod's {names.ANNOTATION_USE_MODEL}, {names.ANNOTATION_AVOID_MODEL} and "
                f"{names.ANNOTATION_USE_UUID} annotations; it waits until one is added; models here: {models}",
            )
        largest = max(memory for make in accepted for _, memory in make)
        most = max(make.total() for make in accepted)
        return (
            *(
                f"container {c.name}: {c.memory_mib} MiB of memory per GPU are requested, the largest GPU it may use has "
                f"{largest} MiB; it waits until a larger one is added"
                for c in request.containers
                if c.asks and c.memory_mib > largest
            ),
            *(
                f"container {c.name}: {c.number} GPUs are requested, no node here has more than {most} that it may use; "
                "it waits until a larger node is added"
                for c in request.containers
                if c.number > most
            ),
        )


class CatalogueCache:
    """The catalogue of the present inventory, made again only when ``version`` says that the inventory has changed."""

    def __init__(self, *, version: Callable[[], int], nodes: Callable[[], Iterable[tuple[str, Sequence[Card]]]]) -> None:
        self._version = version
        self._nodes = nodes
        self._made: tuple[int, Catalogue] | None = None

    def get(self) -> Catalogue:
        """The present one."""
        version = self._version()
        if self._made is None or self._made[0] != version:
            self._made = (version, Catalogue.of(dict(self._nodes())))
        return self._made[1]
