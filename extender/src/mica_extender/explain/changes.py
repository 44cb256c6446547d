"""The smallest change of one thing alone that would make a pod fit on a node.

Amounts (memory, cores, number) are found by halving with placement itself as the judge: a pod that asks for less of one of them
fits wherever it fitted before. Free cards are counted for a single asking container and tried out, fewest first, for several.
What cannot be found within a bounded effort is left unsaid rather than guessed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Final, Literal

from mica_api.compute import ComputeChoice
from mica_api.request import ContainerRequest
from mica_api.selection import Selection
from mica_extender.explain.oracle import (
    Oracle,
    Unsure,
    emptied,
    greatest,
    only_one_card,
    with_cards,
    with_container,
    with_free,
    with_selection,
)
from mica_extender.placement import Card, NodeState, Rejection, Shape

Kind = Literal["memory", "memoryPercent", "cores", "number", "freeCards", "model", "uuid", "policy", "numaBind", "compute"]
AMOUNTS: Final[tuple[Kind, ...]] = ("memory", "memoryPercent", "cores", "number")
MAX_TRIES: Final = 200
"""Sets of cards tried out for one node."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that would have to be different, everything else being as it is.

    Amounts: ``container`` asks for ``to`` instead, which is ``by`` less (0 when it asks for the whole card now).
    ``freeCards``: ``by`` more free cards, for example ``names``. ``model``: the model in ``names`` allowed too. The others: the
    demand dropped.
    """

    kind: Kind
    container: str = ""
    by: int = 0
    to: int = 0
    names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        text = _INSTEAD_OF_ALL if self.kind == "memory" and not self.by else _TEXT[self.kind]
        return text.format(
            by=self.by,
            to=self.to,
            cards=_plural(self.by, "free card"),
            gpus=_plural(self.by, "GPU"),
            names=", ".join(self.names),
            of=f" for container {self.container}" if self.container else "",
        )


_TEXT: Final[dict[Kind, str]] = {
    "memory": "{by} MiB less memory per GPU{of} (at most {to} MiB)",
    "memoryPercent": "{by} percent less memory per GPU{of} (at most {to} %)",
    "cores": "{by} percent less compute per GPU{of} (at most {to} %)",
    "number": "{gpus} fewer{of} (at most {to})",
    "freeCards": "{cards} more ({names})",
    "model": "the model {names} allowed too",
    "uuid": "no restriction to or from GPU UUIDs",
    "policy": "no card policy mutex, which wants cards without any slice",
    "numaBind": "no demand that all GPUs are of one NUMA node",
    "compute": "no higher class and no greater weight of compute than the pool allows ({names})",
}

_INSTEAD_OF_ALL: Final = "at most {to} MiB of memory per GPU instead of all of it{of}"


def applied(change: Change, shape: Shape, node: NodeState) -> tuple[Shape, NodeState]:
    """The pod and the node with the change made."""
    match change.kind:
        case "freeCards":
            return shape, with_free(node, change.names)
        case "model":
            return _allowing(shape, change.names[0]), node
        case "uuid":
            return with_selection(shape, replace(shape.selection, use_uuids=frozenset(), avoid_uuids=frozenset())), node
        case "policy":
            return _without_mutex(shape, node), node
        case "numaBind":
            return with_selection(shape, replace(shape.selection, numa_bind=False)), node
        case "compute":
            return with_selection(shape, replace(shape.selection, compute=ComputeChoice())), node
        case _:
            index = next(i for i, c in enumerate(shape.request.containers) if c.name == change.container)
            return with_container(shape, index, _reduced(shape.request.containers[index], change.kind, change.to)), node


async def smallest_changes(shape: Shape, node: NodeState, oracle: Oracle) -> tuple[Change, ...]:
    """All that would make a pod fit that does not, at most one per kind and container; empty when the node is not ready."""
    if not node.ready:
        return ()
    found: list[Change] = []
    for index, container in enumerate(shape.request.containers):
        if container.asks:
            found += [c async for c in _of_container(oracle, shape, node, index)]
    found += [c async for c in _of_pod(oracle, shape, node)]
    return tuple(found)


async def nearer(oracle: Oracle, shape: Shape, node: NodeState, *, kind: Kind, index: int, above: int = 0) -> Change | None:
    """The smallest change of one amount if it leaves more than ``above``, else None after a single question."""
    container = shape.request.containers[index]
    start = _amount(container, kind, node.cards)
    if start is None:
        return None

    async def fits(value: int) -> bool:
        return await oracle.fits(with_container(shape, index, _reduced(container, kind, value)), node)

    try:
        to = await greatest(above + 1, start - 1, fits)
    except Unsure:
        return None
    stated = kind != "memory" or container.memory_mib > 0
    return None if to is None else Change(kind, container.name, by=start - to if stated else 0, to=to)


async def _of_container(oracle: Oracle, shape: Shape, node: NodeState, index: int) -> AsyncIterator[Change]:
    for kind in AMOUNTS:
        change = await nearer(oracle, shape, node, kind=kind, index=index)
        if change is not None:
            yield change


async def _of_pod(oracle: Oracle, shape: Shape, node: NodeState) -> AsyncIterator[Change]:
    for change in demands(shape, node):
        if await helps(oracle, change, shape, node):
            yield change
    free = await free_cards(oracle, shape, node)
    if free is not None:
        yield free


def demands(shape: Shape, node: NodeState) -> list[Change]:
    """What the pod demands of the cards of this node beside amounts, as changes that drop it; they may help or not."""
    selection = shape.selection
    found = [Change("model", names=(model,)) for model in _other_models(shape, node)]
    if selection.use_uuids or selection.avoid_uuids:
        found.append(Change("uuid"))
    if "mutex" in (selection.gpu_policy or node.gpu_policy):
        found.append(Change("policy"))
    if selection.numa_bind:
        found.append(Change("numaBind"))
    excess = node.compute.excess(selection.compute)
    if excess is not None:
        found.append(Change("compute", names=(excess,)))
    return found


async def helps(oracle: Oracle, change: Change, shape: Shape, node: NodeState) -> bool:
    """Whether the pod fits on the node with this change alone; what the oracle is not sure of does not help."""
    try:
        return await oracle.fits(*applied(change, shape, node))
    except Unsure:
        return False


def _amount(container: ContainerRequest, kind: Kind, cards: Sequence[Card]) -> int | None:
    """What a container asks for now, or None where less of it is not a smaller request.

    The whole memory of a card is at most that of the largest card, plus one that stands for "all of it".
    """
    match kind:
        case "number":
            return container.number
        case "cores":
            return container.cores or None
        case "memoryPercent":
            return container.memory_percent or None
        case "memory" if not container.memory_percent:
            return container.memory_mib or max((card.memory_mib for card in cards), default=0) + 1
        case _:
            return None


def _reduced(container: ContainerRequest, kind: Kind, to: int) -> ContainerRequest:
    match kind:
        case "number":
            return replace(container, number=to)
        case "cores":
            return replace(container, cores=to)
        case "memoryPercent":
            return replace(container, memory_percent=to)
        case _:
            return replace(container, memory_mib=to)


def _other_models(shape: Shape, node: NodeState) -> list[str]:
    return sorted({card.model for card in node.cards if not shape.selection.accepts_model(card.model)})


def _allowing(shape: Shape, model: str) -> Shape:
    selection = shape.selection
    use = selection.use_models | {model.lower()} if selection.use_models else selection.use_models
    avoid = frozenset(p for p in selection.avoid_models if Selection(avoid_models=frozenset({p})).accepts_model(model))
    return with_selection(shape, replace(selection, use_models=use, avoid_models=avoid))


def _without_mutex(shape: Shape, node: NodeState) -> Shape:
    rest = tuple(policy for policy in shape.selection.gpu_policy or node.gpu_policy if policy != "mutex")
    return with_selection(shape, replace(shape.selection, gpu_policy=rest or ("fragmentation",)))


def fewest_free_cards(shape: Shape, rejection: Rejection) -> int:
    """No fewer free cards than these can help; known from the counts of the rejection, without any question."""
    asking = [c for c in shape.request.containers if c.asks]
    if len(asking) != 1:
        return 1
    able = rejection.cards - sum(count for _, count in rejection.counts)
    return max(1, asking[0].number - able)


async def free_cards(oracle: Oracle, shape: Shape, node: NodeState) -> Change | None:
    """The fewest cards of the node that, if nothing were on them, would make the pod fit; None when no number would."""
    try:
        return await _free_cards(oracle, shape, node)
    except Unsure:
        return None


async def _free_cards(oracle: Oracle, shape: Shape, node: NodeState) -> Change | None:
    asking = [c for c in shape.request.containers if c.asks]
    taken = [card for card in node.cards if emptied(card) != card]
    if not await oracle.fits(shape, with_free(node, [card.uuid for card in taken])):
        return None
    if len(asking) == 1 and not shape.selection.numa_bind:
        full = [card for card in taken if await _would_help(oracle, shape, asking[0], node, card)]
        now = [card for card in node.cards if await _judged_alone(oracle, shape, asking[0], node, card)]
        chosen = tuple(card.uuid for card in full[: asking[0].number - len(now)])
        return Change("freeCards", by=len(chosen), names=chosen) if chosen else None
    sets = (chosen for size in range(1, len(taken) + 1) for chosen in combinations(taken, size))
    for tried in islice(sets, MAX_TRIES):
        uuids = tuple(card.uuid for card in tried)
        if await oracle.fits(shape, with_free(node, uuids)):
            return Change("freeCards", by=len(uuids), names=uuids)
    return None


async def _judged_alone(oracle: Oracle, shape: Shape, container: ContainerRequest, node: NodeState, card: Card) -> bool:
    return await oracle.fits(only_one_card(shape, container), with_cards(node, [card]))


async def _would_help(oracle: Oracle, shape: Shape, container: ContainerRequest, node: NodeState, card: Card) -> bool:
    """Whether the card takes the container when it is empty, and does not as it is."""
    return await _judged_alone(oracle, shape, container, node, emptied(card)) and not await _judged_alone(
        oracle, shape, container, node, card
    )


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
