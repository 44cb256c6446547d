"""Every policy over nodes and cards: pool default, pod override, lists in the order written, weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica_api.policies import CardPolicy, NodePolicy, Weights
from mica_api.request import ContainerRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, Code, NodeState, Placement, Rejection, Shape, choose, score
from mica_extender.placement.policy import PPM, fullness

GIB = 1024


def card(index: int, *, gib: int = 0, cores: int = 0, slices: int | None = None, numa: int | None = None) -> Card:
    count = (1 if gib or cores else 0) if slices is None else slices
    return Card(f"GPU-{index}", index, "A100", 80 * GIB, True, gib * GIB, cores, count, numa=numa)


def ask(
    number: int = 1,
    *,
    gib: int = 3,
    cores: int = 0,
    policy: tuple[CardPolicy, ...] = (),
    node_policy: NodePolicy | None = None,
    weights: Weights | None = None,
    numa_bind: bool = False,
) -> Shape:
    container = ContainerRequest("main", number=number, cores=cores, memory_mib=gib * GIB)
    selection = Selection(node_policy=node_policy, gpu_policy=policy, weights=weights, numa_bind=numa_bind)
    return Shape(PodRequest((container,)), selection)


def chosen(shape: Shape, state: NodeState) -> list[str]:
    verdict = choose(shape, state)
    assert isinstance(verdict, Placement)
    return [share.uuid.removeprefix("GPU-") for share in verdict.shares[0]]


def best(shape: Shape, nodes: Sequence[NodeState]) -> tuple[str, list[str]]:
    """The node with the highest score and the cards there."""
    placed = {node.name: (node, verdict) for node in nodes if isinstance(verdict := choose(shape, node), Placement)}
    name = max(placed, key=lambda name: score(shape, *placed[name]))
    return name, chosen(shape, placed[name][0])


def two_nodes(node_policy: NodePolicy, card_policy: tuple[CardPolicy, ...]) -> list[NodeState]:
    """A fuller and an emptier node, each with a fuller and an emptier card."""
    amounts = {"full": (50, 30), "empty": (10, 5)}
    return [
        NodeState(name, 10, (card(0, gib=one), card(1, gib=other)), node_policy, card_policy)
        for name, (one, other) in amounts.items()
    ]


@pytest.mark.parametrize(("node_policy", "node"), [("binpack", "full"), ("spread", "empty")])
@pytest.mark.parametrize(
    ("card_policy", "expected"),
    [
        (("binpack",), "0"),
        (("spread",), "1"),
        (("fragmentation",), "0"),
        (("topology",), "0"),
        (("numa",), "0"),
        (("numa", "spread"), "1"),
        (("spread", "numa"), "1"),
        (("fragmentation", "spread"), "0"),
    ],
)
def test_node_and_card_policies_combine_as_pool_defaults_and_as_overrides(
    node_policy: NodePolicy, node: str, card_policy: tuple[CardPolicy, ...], expected: str
) -> None:
    by_pool = best(ask(), two_nodes(node_policy, card_policy))
    other_node: NodePolicy = "spread" if node_policy == "binpack" else "binpack"
    other_cards: tuple[CardPolicy, ...] = ("spread",) if expected == "0" else ("binpack",)
    by_pod = best(ask(policy=card_policy, node_policy=node_policy), two_nodes(other_node, other_cards))
    assert by_pool == by_pod == (node, [expected])


@pytest.mark.parametrize(
    "card_policy", [("binpack",), ("spread",), ("fragmentation",), ("topology",), ("mutex", "numa", "spread")]
)
def test_a_node_policy_never_sends_a_pod_where_it_does_not_fit(card_policy: tuple[CardPolicy, ...]) -> None:
    policies: tuple[NodePolicy, ...] = ("fragmentation", "binpack", "spread")
    for node_policy in policies:
        full = NodeState("full", 10, (card(0, gib=79), card(1, gib=79)), node_policy, card_policy)
        free = NodeState("free", 10, (card(0), card(1, gib=79)), node_policy, card_policy)
        assert best(ask(), [full, free]) == ("free", ["0"])


def test_mutex_takes_only_cards_without_any_slice() -> None:
    state = NodeState("n", 10, (card(0, gib=1), card(1), card(2, gib=40), card(3)))
    assert chosen(ask(2, policy=("mutex", "binpack")), state) == ["1", "3"]
    verdict = choose(ask(3, policy=("mutex",)), state)
    assert verdict == Rejection(Code.EXCLUSIVE_CONFLICT, ((Code.EXCLUSIVE_CONFLICT, 2),), 4)


def test_with_mutex_the_containers_of_a_pod_do_not_share_a_card_either() -> None:
    request = PodRequest(tuple(ContainerRequest(name, number=1, memory_mib=GIB) for name in "ab"))
    wanted = Shape(request, Selection(gpu_policy=("mutex",)))
    verdict = choose(wanted, NodeState("n", 10, (card(0), card(1))))
    assert isinstance(verdict, Placement)
    assert verdict.shares[0][0].uuid != verdict.shares[1][0].uuid
    assert isinstance(choose(wanted, NodeState("n", 10, (card(0),))), Rejection)


def test_numa_prefers_cards_of_one_numa_node_and_keeps_the_order_within_it() -> None:
    state = NodeState(
        "n",
        10,
        (card(0, gib=40, numa=0), card(1, numa=1), card(2, gib=30, numa=1), card(3, gib=5, numa=0), card(4, gib=20, numa=1)),
    )
    assert chosen(ask(2, policy=("numa", "binpack")), state) == ["0", "3"]
    assert chosen(ask(2, policy=("numa", "spread")), state) == ["1", "4"]
    assert chosen(ask(2, policy=("binpack", "numa")), state) == ["0", "2"]
    assert chosen(ask(1, policy=("numa", "binpack")), state) == ["0"], "one card is always of one NUMA node"
    assert chosen(ask(3, policy=("numa", "binpack")), state) == ["2", "4", "1"]


def test_numa_after_another_key_decides_only_where_that_key_is_equal() -> None:
    state = NodeState("n", 10, (card(0, gib=40, numa=1), card(1, numa=0), card(2, numa=1), card(3, numa=0)))
    assert chosen(ask(2, policy=("binpack", "numa")), state) == ["0", "2"]
    assert chosen(ask(2, policy=("spread", "numa")), state) == ["1", "3"]


def test_numa_bind_demands_one_numa_node_and_says_so() -> None:
    state = NodeState("n", 10, (card(0, gib=40, numa=0), card(1, numa=1), card(2, gib=79, numa=0), card(3, numa=1)))
    assert chosen(ask(2, policy=("binpack",), numa_bind=True), state) == ["1", "3"]
    assert choose(ask(3, numa_bind=True), state) == Rejection(
        Code.NUMA_NOT_FIT, ((Code.INSUFFICIENT_MEMORY, 1), (Code.NUMA_NOT_FIT, 3)), 4, permanent=True
    )
    short = NodeState("n", 10, (card(0, gib=79, numa=0), card(1, numa=1), card(2, numa=0), card(3, gib=79, numa=1)))
    verdict = choose(ask(2, numa_bind=True), short)
    assert isinstance(verdict, Rejection)
    assert (verdict.code, verdict.permanent) == (Code.NUMA_NOT_FIT, False)


def test_cards_whose_numa_node_is_unknown_count_as_one_numa_node() -> None:
    assert chosen(ask(2, numa_bind=True), NodeState("n", 10, (card(0), card(1, numa=0), card(2)))) == ["0", "2"]


def test_weights_compare_the_mean_instead_of_the_fullest() -> None:
    by_slots, by_memory = card(0, slices=6, gib=1), card(1, slices=1, gib=30)
    state = NodeState("n", 10, (by_slots, by_memory), gpu_policy=("binpack",))
    assert chosen(ask(), state) == ["0"]
    assert chosen(ask(weights=Weights(slot=0, core=0, memory=1)), state) == ["1"]
    pool = NodeState("n", 10, (by_slots, by_memory), gpu_policy=("binpack",), weights=Weights(slot=0, core=0, memory=1))
    assert chosen(ask(), pool) == ["1"]
    assert chosen(ask(weights=Weights(slot=1, core=0, memory=0)), pool) == ["0"], "the pod's own win"


def test_weights_decide_between_nodes_too() -> None:
    slots = NodeState("slots", 10, (card(0, slices=6, gib=1), card(1)), "binpack", ("binpack",))
    memory = NodeState("memory", 10, (card(0, slices=1, gib=30), card(1)), "binpack", ("binpack",))
    assert best(ask(), [slots, memory])[0] == "slots"
    assert best(ask(weights=Weights(slot=0, core=0, memory=1)), [slots, memory])[0] == "memory"


def test_fullness_is_the_fullest_dimension_or_the_weighted_mean_in_millionths() -> None:
    one = Card("u", 0, "A100", 1000, True, 500, 20, 1, capacity_mib=2000, core_capacity=200)
    assert fullness(one, 4, None) == PPM // 4
    assert fullness(one, 4, Weights(slot=1, core=2, memory=1)) == (PPM // 4 + 2 * PPM // 10 + PPM // 4) // 4


NUMA = st.sampled_from([None, 0, 1, 2])
drawn = st.lists(st.tuples(st.sampled_from([0, 0, 10, 30, 60]), NUMA), min_size=1, max_size=7)
orders = st.sampled_from(
    [("numa", "binpack"), ("numa", "spread"), ("binpack", "numa"), ("spread", "numa"), ("binpack",), ("spread",)]
)


@settings(max_examples=400)
@given(drawn, orders, st.integers(1, 4))
def test_a_list_of_keys_means_what_it_says_of_whole_sets(
    amounts: list[tuple[int, int | None]], order: tuple[CardPolicy, ...], number: int
) -> None:
    cards = [card(at, gib=gib, numa=numa) for at, (gib, numa) in enumerate(amounts)]
    verdict = choose(ask(number, policy=order), NodeState("n", 10, tuple(cards)))
    if len(cards) < number:
        assert isinstance(verdict, Rejection)
        return

    def rank(some: tuple[Card, ...]) -> list[object]:
        sign = -1 if "binpack" in order else 1
        full = sorted(sign * one.used_mib for one in some)
        keys: dict[str, object] = {"binpack": full, "spread": full, "numa": len({one.numa for one in some})}
        return [keys[key] for key in order]

    assert isinstance(verdict, Placement)
    mine = tuple(one for one in cards if one.uuid in {share.uuid for share in verdict.shares[0]})
    assert rank(mine) == min(rank(some) for some in combinations(cards, number))


@settings(max_examples=300)
@given(drawn, orders, st.integers(1, 3))
def test_numa_bind_is_refused_exactly_when_no_numa_node_has_enough_cards(
    amounts: list[tuple[int, int | None]], order: tuple[CardPolicy, ...], number: int
) -> None:
    cards = [card(at, gib=gib, numa=numa) for at, (gib, numa) in enumerate(amounts)]
    verdict = choose(ask(number, gib=60, policy=order, numa_bind=True), NodeState("n", 10, tuple(cards)))
    free = [one for one in cards if one.used_mib + 60 * GIB <= one.memory_mib]
    possible = any(len({one.numa for one in some}) == 1 for some in combinations(free, number))
    assert isinstance(verdict, Placement) == possible
    if isinstance(verdict, Placement):
        assert len({one.numa for one in cards if one.uuid in {s.uuid for s in verdict.shares[0]}}) == 1
