"""verify(): every way in which a decision can be wrong, and that no sequence of decisions ever over-commits a card."""

from dataclasses import replace

import pytest
from agent_under_test import CARD_MIB, CARDS, GPU_A, GPU_B, NODE, card, slice_pod
from hypothesis import given
from hypothesis import strategies as st

from mica_api import names
from mica_api.allocation import GPUShare
from mica_api.request import ContainerRequest
from mica_api.sharing import Sharing
from mica_device_plugin.values import Pin, PinnedContainer, PoolChoice
from mica_device_plugin.verify import Accept, NodeFacts, Reason, Refuse, verify

FACTS = NodeFacts(NODE, CARDS, PoolChoice("default", Sharing(10)))
SHARE = GPUShare(GPU_A, 3072, 20)


def sliced(max_slices: int, *, memory: int = 100, cores: int = 100, **options) -> NodeFacts:
    return replace(FACTS, pool=PoolChoice("default", Sharing(max_slices, memory, cores), **options))


def pinned(*shares: GPUShare, uid: str = "other") -> Pin:
    return Pin(uid, "default", uid, tuple(PinnedContainer(f"c{i}", (s,)) for i, s in enumerate(shares)))


def without(pod, key):
    return replace(pod, annotations={k: v for k, v in pod.annotations.items() if k != key})


GOOD = slice_pod(SHARE)
WRONG = {
    "bound elsewhere": (slice_pod(SHARE, node="node-2"), FACTS, (), Reason.NOT_BOUND_HERE),
    "no decision": (without(GOOD, "alloc.mica.dev/c0"), FACTS, (), Reason.NO_DECISION),
    "a container without decision": (without(slice_pod(SHARE, SHARE), "alloc.mica.dev/c1"), FACTS, (), Reason.MALFORMED_DECISION),
    "rubbish": (replace(GOOD, annotations={**GOOD.annotations, "alloc.mica.dev/c0": "{"}), FACTS, (), Reason.MALFORMED_DECISION),
    "decided for another node": (slice_pod(SHARE, decided_on="node-2"), FACTS, (), Reason.WRONG_NODE),
    "decided for another pod": (slice_pod(SHARE, decided_for="uid-2"), FACTS, (), Reason.WRONG_POD),
    "not admitted": (without(GOOD, names.ANNOTATION_REQUEST), FACTS, (), Reason.INVALID_REQUEST),
    "resources changed": (replace(GOOD, containers=(("c0", {names.RESOURCE_NUMBER: "2"}),)), FACTS, (), Reason.INVALID_REQUEST),
    "more memory than asked": (
        slice_pod(SHARE, asked=(ContainerRequest("c0", number=1, cores=20, memory_mib=2048),)),
        FACTS,
        (),
        Reason.NOT_AS_REQUESTED,
    ),
    "fewer GPUs than asked": (
        slice_pod(SHARE, asked=(ContainerRequest("c0", number=2, cores=20, memory_mib=3072),)),
        FACTS,
        (),
        Reason.NOT_AS_REQUESTED,
    ),
    "unknown GPU": (slice_pod(GPUShare("GPU-x", 3072, 20)), FACTS, (), Reason.UNKNOWN_GPU),
    "unhealthy GPU": (GOOD, replace(FACTS, gpus=(card(GPU_A, healthy=False),)), (), Reason.UNHEALTHY_GPU),
    "a class above the pool's": (
        replace(GOOD, annotations={**GOOD.annotations, names.ANNOTATION_COMPUTE_PRIORITY: "high"}),
        FACTS,
        (),
        Reason.COMPUTE_NOT_ALLOWED,
    ),
    "no pool": (GOOD, replace(FACTS, pool=None), (), Reason.NO_POOL),
    "memory": (GOOD, FACTS, (pinned(GPUShare(GPU_A, CARD_MIB - 3071, 0)),), Reason.OUT_OF_MEMORY),
    "cores": (GOOD, FACTS, (pinned(GPUShare(GPU_A, 1024, 81)),), Reason.OUT_OF_CORES),
    "slices": (GOOD, sliced(2), (pinned(*[GPUShare(GPU_A, 1, 1)] * 2),), Reason.OUT_OF_SLICES),
    "beside an exclusive slice": (
        slice_pod(GPUShare(GPU_A, 1024, 0)),
        FACTS,
        (pinned(GPUShare(GPU_A, 1024, 100)),),
        Reason.NOT_EXCLUSIVE,
    ),
    "exclusive beside a slice": (
        slice_pod(GPUShare(GPU_A, 1024, 100)),
        FACTS,
        (pinned(GPUShare(GPU_A, 1024, 0)),),
        Reason.NOT_EXCLUSIVE,
    ),
    "containers of one pod together": (
        slice_pod(GPUShare(GPU_A, 1024, 60), GPUShare(GPU_A, 1024, 60)),
        FACTS,
        (),
        Reason.OUT_OF_CORES,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_right_is_refused_with_its_reason(name):
    pod, facts, held, reason = WRONG[name]
    outcome = verify(pod=pod, node=facts, held=held)
    assert isinstance(outcome, Refuse) and outcome.reason is reason
    assert outcome.message


def test_every_reason_of_verify_is_covered_here():
    elsewhere = {Reason.UNKNOWN_CONTAINER, Reason.INIT_CONTAINER, Reason.LIBRARY_MISSING}
    assert {case[3] for case in WRONG.values()} == set(Reason) - elsewhere


def test_a_shortage_names_what_is_free():
    outcome = verify(pod=GOOD, node=FACTS, held=[pinned(GPUShare(GPU_A, CARD_MIB - 1000, 0))])
    assert isinstance(outcome, Refuse) and "3072 MiB wanted, 1000 of 81920 MiB free" in outcome.message


def test_a_decision_that_just_fits_is_accepted():
    held = [pinned(GPUShare(GPU_A, CARD_MIB - 3072, 80)), pinned(GPUShare(GPU_B, CARD_MIB, 100), uid="third")]
    assert verify(pod=GOOD, node=FACTS, held=held) == Accept((PinnedContainer("c0", (SHARE,)),))


def test_a_containers_own_pin_is_not_counted_against_it():
    assert isinstance(verify(pod=GOOD, node=FACTS, held=[pinned(GPUShare(GPU_A, CARD_MIB, 0), uid="uid-1")]), Accept)


def test_a_container_without_slices_needs_an_empty_decision():
    pod = slice_pod(SHARE, [], asked=(ContainerRequest("c0", number=1, cores=20, memory_mib=3072), ContainerRequest("c1")))
    assert verify(pod=pod, node=FACTS, held=()) == Accept((PinnedContainer("c0", (SHARE,)), PinnedContainer("c1", ())))


shares = st.builds(GPUShare, st.sampled_from([GPU_A, GPU_B]), st.integers(1, CARD_MIB), st.integers(0, 100))


@given(st.lists(st.lists(shares, min_size=1, max_size=3), max_size=30), st.integers(1, 4))
def test_no_sequence_of_decisions_overcommits_a_card(decisions, max_slices):
    facts = sliced(max_slices)
    held: list[Pin] = []
    for number, containers in enumerate(decisions):
        uid = f"uid-{number}"
        outcome = verify(pod=slice_pod(*containers, uid=uid), node=facts, held=held)
        if isinstance(outcome, Accept):
            held.append(Pin(uid, "default", uid, outcome.containers))
    for uuid in (GPU_A, GPU_B):
        on_card = [s for pin in held for c in pin.containers for s in c.shares if s.uuid == uuid]
        assert sum(s.memory_mib for s in on_card) <= CARD_MIB
        assert sum(s.cores for s in on_card) <= 100
        assert len(on_card) <= max_slices
        assert len(on_card) <= 1 or all(s.cores < 100 for s in on_card)
