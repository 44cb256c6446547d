"""Init containers and sidecars: the charge is what a walk through the life of the pod sees; they go to its own cards first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from mica_api.allocation import GPUShare
from mica_api.request import MAX_SIZES, ContainerRequest, InitRequest, PodRequest
from mica_api.selection import Selection
from mica_extender.placement import Card, NodeState, Placement, Rejection, Shape, choose
from mica_extender.placement.charge import Amounts, charges

CARDS = tuple(Card(f"GPU-{at}", at, "A100", 1000, core_capacity=(100, 200)[at % 2], numa=at % 2) for at in range(4))


def want(name: str, number: int = 1, *, mib: int = 100, cores: int = 0) -> ContainerRequest:
    return ContainerRequest(name, number=number, cores=cores, memory_mib=mib)


class Walk:
    """A pod's life: containers start and stop, and each card remembers the most that was on it."""

    def __init__(self) -> None:
        self.running: list[GPUShare] = []
        self.peak: dict[str, Counter[str]] = {}

    def start(self, shares: Iterable[GPUShare]) -> None:
        self.running += shares
        now: dict[str, Counter[str]] = {}
        for share in self.running:
            core_capacity = next(card.core_capacity for card in CARDS if card.uuid == share.uuid)
            cores = core_capacity if share.cores == 100 else share.cores
            now.setdefault(share.uuid, Counter()).update(mib=share.memory_mib, cores=cores, slices=1)
        for uuid, taken in now.items():
            self.peak[uuid] = self.peak.get(uuid, Counter()) | taken

    def stop(self, shares: Iterable[GPUShare]) -> None:
        for share in shares:
            self.running.remove(share)


def walk(request: PodRequest, placement: Placement) -> dict[str, Amounts]:
    life = Walk()
    for one, shares in zip(request.init, placement.init, strict=True):
        life.start(shares)
        if not one.restartable:
            life.stop(shares)
    for shares in placement.shares:
        life.start(shares)
    return {uuid: Amounts(taken["mib"], taken["cores"], taken["slices"]) for uuid, taken in life.peak.items()}


@st.composite
def placed(draw: st.DrawFn) -> tuple[PodRequest, Placement]:
    """A pod and any placement of it, right or wrong."""
    size = st.tuples(st.integers(1, 500), st.sampled_from([0, 10, 50, 100]))
    sizes = draw(st.lists(size, min_size=1, max_size=MAX_SIZES))

    def container(name: str) -> tuple[ContainerRequest, tuple[GPUShare, ...]]:
        uuids = draw(st.lists(st.sampled_from([card.uuid for card in CARDS]), max_size=3, unique=True))
        mib, cores = draw(st.sampled_from(sizes))
        return want(name, len(uuids), mib=mib, cores=cores), tuple(GPUShare(uuid, mib, cores) for uuid in uuids)

    apps = [container(f"a{at}") for at in range(draw(st.integers(1, 3)))]
    init = [(container(f"i{at}"), draw(st.booleans())) for at in range(draw(st.integers(0, 4)))]
    request = PodRequest(tuple(c for c, _ in apps), tuple(InitRequest(c, restartable) for (c, _), restartable in init))
    return request, Placement(tuple(s for _, s in apps), tuple(s for (_, s), _ in init))


@given(placed())
def test_the_charge_is_what_a_walk_through_the_pods_life_sees(pod: tuple[PodRequest, Placement]) -> None:
    request, placement = pod
    assert charges(request, placement, CARDS) == walk(request, placement)


def place(request: PodRequest, *cards: Card, selection: Selection | None = None) -> Placement:
    verdict = choose(Shape(request, selection or Selection()), NodeState("n", 10, cards or CARDS))
    assert isinstance(verdict, Placement)
    return verdict


def test_an_init_container_needs_no_room_beside_the_app_that_it_precedes() -> None:
    request = PodRequest((want("app", mib=900),), (InitRequest(want("load", mib=1000)),))
    placement = place(request, CARDS[0])
    assert charges(request, placement, CARDS) == {"GPU-0": Amounts(1000, 0, 1)}


def test_a_sidecar_runs_beside_the_app_and_beside_what_starts_after_it() -> None:
    sidecar, load = InitRequest(want("proxy", mib=300), restartable=True), InitRequest(want("load", mib=800))
    app = (want("app", mib=600),)
    assert isinstance(place(PodRequest(app, (load, sidecar)), CARDS[0]), Placement)
    one_card = NodeState("n", 10, (CARDS[0],))
    assert isinstance(choose(Shape(PodRequest(app, (sidecar, load))), one_card), Rejection)
    assert isinstance(choose(Shape(PodRequest((want("app", mib=701),), (sidecar,))), one_card), Rejection)


def test_init_containers_take_the_pods_own_cards_first() -> None:
    busy = CARDS[0].with_slice(memory_mib=500, cores=0)
    for policy in (("binpack",), ("spread",), ("numa", "binpack"), ("topology",)):
        request = PodRequest((want("app", 2, mib=600),), (InitRequest(want("load", 2, mib=200)),))
        placement = place(request, busy, *CARDS[1:], selection=Selection(gpu_policy=policy))
        assert {share.uuid for share in placement.init[0]} == {share.uuid for share in placement.shares[0]}


def test_init_containers_that_need_more_cards_than_the_app_take_others_beside_its_own() -> None:
    request = PodRequest((want("app", mib=600),), (InitRequest(want("load", 3, mib=600)),))
    placement = place(request, selection=Selection(gpu_policy=("spread",)))
    assert placement.shares[0][0].uuid in {share.uuid for share in placement.init[0]}


def test_init_containers_without_slices_keep_their_place() -> None:
    request = PodRequest((want("app"),), (InitRequest(ContainerRequest("copy")), InitRequest(want("load"))))
    placement = place(request)
    assert [len(shares) for shares in placement.init] == [0, 1]


def test_an_exclusive_init_container_keeps_others_from_its_card_while_the_pod_lives() -> None:
    request = PodRequest((want("app", cores=10),), (InitRequest(want("load", cores=100)),))
    placement = place(request, CARDS[1])
    assert charges(request, placement, CARDS) == {"GPU-1": Amounts(100, 200, 1)}
    held = CARDS[1].with_slice(memory_mib=1, cores=1)
    assert isinstance(choose(Shape(request), NodeState("n", 10, (held,))), Rejection)
