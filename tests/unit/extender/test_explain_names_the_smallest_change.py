"""With the change that explain names filter accepts; with anything smaller it does not. One dimension at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import assume, given
from hypothesis import strategies as st

from mica_api.compute import ComputeChoice, ComputeRules
from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.explain.changes import AMOUNTS, Change, Kind, applied, fewest_free_cards, smallest_changes
from mica_extender.explain.oracle import Oracle, emptied, greatest, with_free
from mica_extender.placement import Card, NodeState, Placement, Rejection, Shape, choose

LARGEST = 400
MODELS = ("A100", "H100", "T4")


@st.composite
def cards(draw: st.DrawFn, index: int) -> Card:
    memory = draw(st.sampled_from((100, 200, LARGEST)))
    used = draw(st.integers(0, memory))
    slices = draw(st.integers(1, 3)) if used else 0
    cores = draw(st.integers(0, 100)) if slices else 0
    model = draw(st.sampled_from(MODELS))
    healthy = draw(st.integers(0, 9)) > 0
    numa = draw(st.sampled_from((None, 0, 1)))
    taken = {"used_mib": used, "used_cores": cores, "slices": slices}
    return Card(f"GPU-{index}", index, model, memory, healthy=healthy, numa=numa, **taken)


@st.composite
def nodes(draw: st.DrawFn) -> NodeState:
    count = draw(st.integers(1, 4))
    policy = draw(st.sampled_from((("fragmentation",), ("fragmentation",), ("mutex", "binpack"))))
    compute = ComputeRules(max_weight=draw(st.sampled_from((100, 500))))
    found = tuple(draw(cards(i)) for i in range(count))
    return NodeState("n", draw(st.integers(2, 4)), found, gpu_policy=policy, compute=compute)


@st.composite
def requests(draw: st.DrawFn, name: str) -> ContainerRequest:
    memory = draw(st.sampled_from(("mib", "percent", "whole")))
    return ContainerRequest(
        name,
        number=draw(st.integers(1, 4)),
        cores=draw(st.sampled_from((0, 10, 50, 99, 100))),
        memory_mib=draw(st.integers(1, LARGEST + 50)) if memory == "mib" else 0,
        memory_percent=draw(st.integers(1, 100)) if memory == "percent" else 0,
    )


selections = st.builds(
    Selection,
    use_models=st.sampled_from((frozenset(), frozenset({"h100"}))),
    avoid_models=st.sampled_from((frozenset(), frozenset({"a100"}))),
    use_uuids=st.sampled_from((frozenset(), frozenset({"GPU-0"}))),
    gpu_policy=st.sampled_from(((), (), ("mutex",), ("numa", "binpack"))),
    numa_bind=st.booleans(),
    compute=st.sampled_from((ComputeChoice(), ComputeChoice(weight=300))),
)
one_container = st.builds(lambda c, s: Shape(PodRequest((c,)), s), requests("main"), selections)
two_containers = st.builds(lambda a, b, s: Shape(PodRequest((a, b)), s), requests("a"), requests("b"), selections)


def fits(shape: Shape, node: NodeState) -> bool:
    return isinstance(choose(shape, node), Placement)


async def changes_of(shape: Shape, node: NodeState) -> dict[tuple[str, str], Change]:
    found = await smallest_changes(shape, node, Oracle())
    keyed = {(change.kind, change.container or ",".join(change.names)): change for change in found}
    assert len(keyed) == len(found)
    return keyed


def larger_by_one(change: Change) -> Change:
    return replace(change, by=change.by - 1, to=change.to + 1)


@given(one_container, nodes())
async def test_an_amount_is_reduced_by_no_more_than_is_needed(shape: Shape, node: NodeState) -> None:
    assume(not fits(shape, node))
    changes = await changes_of(shape, node)
    wanted = shape.request.containers[0]
    amounts: tuple[tuple[Kind, int], ...] = (
        ("memory", 0 if wanted.memory_percent else wanted.memory_mib),
        ("memoryPercent", wanted.memory_percent),
        ("cores", wanted.cores),
        ("number", wanted.number),
    )
    for kind, start in amounts:
        change = changes.get((kind, "main"))
        if change is not None:
            assert fits(*applied(change, shape, node))
            assert change.by == start - change.to or (kind == "memory" and not start and not change.by)
            if change.to + 1 < (start or LARGEST + 1):
                assert not fits(*applied(larger_by_one(change), shape, node))
        elif start > 1 or (kind == "memory" and not wanted.memory_percent):
            nothing_helps = [Change(kind, "main", to=to) for to in range(1, start or LARGEST + 1)]
            assert not any(fits(*applied(tried, shape, node)) for tried in nothing_helps)


@given(one_container | two_containers, nodes())
async def test_no_fewer_free_cards_would_do(shape: Shape, node: NodeState) -> None:
    assume(not fits(shape, node))
    found = [change for change in (await changes_of(shape, node)).values() if change.kind == "freeCards"]
    taken = [card.uuid for card in node.cards if card != emptied(card)]
    smallest = next(
        (k for k in range(len(taken) + 1) for some in combinations(taken, k) if fits(shape, with_free(node, some))), None
    )
    assert [change.by for change in found] == ([] if smallest is None else [smallest])
    for change in found:
        rejection = choose(shape, node)
        assert isinstance(rejection, Rejection)
        assert change.by >= fewest_free_cards(shape, rejection)
        assert len(change.names) == change.by
        assert fits(*applied(change, shape, node))


@given(two_containers, nodes())
async def test_whatever_is_named_helps_a_pod_of_several_containers_too(shape: Shape, node: NodeState) -> None:
    assume(not fits(shape, node))
    for change in (await changes_of(shape, node)).values():
        assert fits(*applied(change, shape, node))


@given(one_container, nodes())
async def test_a_filter_is_blamed_exactly_when_dropping_it_alone_would_do(shape: Shape, node: NodeState) -> None:
    assume(not fits(shape, node))
    changes = await changes_of(shape, node)
    for model in {card.model for card in node.cards}:
        allowed = Change("model", names=(model,))
        helps = not shape.selection.accepts_model(model) and fits(*applied(allowed, shape, node))
        assert (("model", model) in changes) == helps
    demanded = {
        "uuid": bool(shape.selection.use_uuids),
        "policy": "mutex" in (shape.selection.gpu_policy or node.gpu_policy),
        "numaBind": shape.selection.numa_bind,
    }
    for kind, stated in demanded.items():
        helps = stated and fits(*without(kind, shape, node))
        assert ((kind, "") in changes) == helps, kind
    excessive = shape.selection.compute.weight is not None and shape.selection.compute.weight > node.compute.max_weight
    assert any(kind == "compute" for kind, _ in changes) == (excessive and fits(*without("compute", shape, node)))


def without(kind: str, shape: Shape, node: NodeState) -> tuple[Shape, NodeState]:
    """The pod without one of its demands, made here once more."""
    selection = shape.selection
    order = tuple(policy for policy in selection.gpu_policy or node.gpu_policy if policy != "mutex") or ("fragmentation",)
    dropped = {
        "uuid": replace(selection, use_uuids=frozenset(), avoid_uuids=frozenset()),
        "policy": replace(selection, gpu_policy=order),
        "numaBind": replace(selection, numa_bind=False),
        "compute": replace(selection, compute=ComputeChoice()),
    }
    return replace(shape, selection=dropped[kind]), node


@given(two_containers, nodes())
async def test_an_amount_of_one_of_several_containers_is_reduced_by_no_more_than_is_needed(shape: Shape, node: NodeState) -> None:
    assume(not fits(shape, node))
    for change in (await changes_of(shape, node)).values():
        if change.kind not in AMOUNTS:
            continue
        [wanted] = (container for container in shape.request.containers if container.name == change.container)
        stated = {"memory": wanted.memory_mib, "memoryPercent": wanted.memory_percent, "cores": wanted.cores}
        if change.to + 1 < (stated.get(change.kind, wanted.number) or LARGEST + 1):
            assert not fits(*applied(larger_by_one(change), shape, node))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(-1, 60))
async def test_halving_finds_the_greatest_value(low: int, high: int, last: int) -> None:
    async def under(value: int) -> bool:
        return value <= last

    expected = [value for value in range(low, high + 1) if value <= last]
    assert await greatest(low, high, under) == (expected[-1] if expected else None)


async def test_a_node_whose_agent_is_not_ready_needs_no_change_of_the_pod() -> None:
    node = NodeState("n", 4, (Card("GPU-0", 0, "A100", 100),), ready=False)
    shape = Shape(PodRequest((ContainerRequest("main", number=1, memory_mib=10),)))
    assert await smallest_changes(shape, node, Oracle()) == ()


def test_changes_are_said_in_words() -> None:
    assert Change("memory", "main", by=6144, to=2048).text == "6144 MiB less memory per GPU for container main (at most 2048 MiB)"
    assert Change("memory", "main", to=2048).text == "at most 2048 MiB of memory per GPU instead of all of it for container main"
    assert Change("number", "main", by=1, to=1).text == "1 GPU fewer for container main (at most 1)"
    assert Change("freeCards", by=2, names=("GPU-a", "GPU-b")).text == "2 free cards more (GPU-a, GPU-b)"
    assert Change("model", names=("Tesla T4",)).text == "the model Tesla T4 allowed too"
