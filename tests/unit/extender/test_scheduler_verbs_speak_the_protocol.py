"""What kube-scheduler sends and reads, byte by byte, through the ASGI application."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mica_api.request import ContainerRequest
from mica_extender.metrics import Metrics
from mica_extender.scheduling.app import SchedulerApp, client_name
from mica_extender.scheduling.binder import Binder
from mica_extender.state.records import PodRecord

from .conftest import World, node_body, pod_body

BIG = [ContainerRequest("main", number=1, cores=20, memory_mib=81000)]


class Switch:
    """Leadership by hand."""

    def __init__(self, on: bool = True) -> None:
        self.on = on

    def leading(self) -> bool:
        return self.on

    def term(self) -> str:
        return "by hand" if self.on else ""


class GoodApi:
    """Stores every Binding."""

    def __init__(self) -> None:
        self.bindings: list[tuple[str, str, Mapping[str, str]]] = []

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        self.bindings.append((pod.uid, node, annotations))

    async def read(self, pod: PodRecord) -> PodRecord:
        return pod


class Bench:
    def __init__(self, world: World, *, leading: bool = True, synced: bool = True) -> None:
        self.api = GoodApi()
        self.registry = CollectorRegistry()
        leadership = Switch(leading)
        binder = Binder(ledger=world.ledger, pods=world.pods, api=self.api, leadership=leadership)
        self.app = SchedulerApp(
            ledger=world.ledger,
            binder=binder,
            leadership=leadership,
            synced=lambda: synced,
            metrics=Metrics(self.registry),
        )

    async def call(self, verb: str, body: bytes, *, method: str = "POST") -> tuple[int, Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "path": f"/{verb}", "method": method}, receive, send)
        raw = sent[1]["body"]
        return sent[0]["status"], json.loads(raw) if sent[0]["status"] == 200 else raw

    async def ask(self, verb: str, body: Any) -> Any:
        status, reply = await self.call(verb, json.dumps(body).encode())
        assert status == 200
        return reply


async def test_filter_by_names_sorts_nodes_into_fitting_failed_and_unresolvable(world: World) -> None:
    world.see_node(node_body("small", memory_mib=1024))
    world.see_node(node_body("full"))
    for index in range(2):
        world.see_pod(world.bound_body(pod_body(f"big{index}", containers=BIG), "full"))
    answer = await Bench(world).ask("filter", {"Pod": pod_body(), "Nodes": None, "NodeNames": ["n1", "small", "full", "none"]})
    assert answer == {
        "Nodes": None,
        "NodeNames": ["n1"],
        "FailedNodes": {"full": "CardInsufficientMemory"},
        "FailedAndUnresolvableNodes": {"small": "CardInsufficientMemory", "none": "node unregistered"},
        "Error": "",
    }


async def test_filter_by_objects_gives_the_objects_back_untouched(world: World) -> None:
    nodes = [{"metadata": {"name": name, "labels": {"x": name}}, "spec": {"taints": []}} for name in ("n1", "none")]
    answer = await Bench(world).ask("filter", {"Pod": pod_body(), "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": None})
    assert answer["Nodes"]["items"] == nodes[:1]
    assert answer["NodeNames"] is None


async def test_a_pod_that_was_not_admitted_fits_nowhere_and_says_so(world: World) -> None:
    body = pod_body()
    body["metadata"]["annotations"] = {}
    answer = await Bench(world).ask("filter", {"Pod": body, "NodeNames": ["n1"]})
    assert "not admitted" in answer["FailedAndUnresolvableNodes"]["n1"]


@pytest.mark.parametrize("key", ["mica.dev/gpu-policy", "mica.dev/request"])
async def test_what_people_write_is_not_repeated_at_length_for_every_node(world: World, key: str) -> None:
    wrong = json.dumps({"v": 1, "containers": [{"name": ["x" * 200_000], "number": 1, "cores": 0, "mem": 1, "memPercent": 0}]})
    answer = await Bench(world).ask("filter", {"Pod": pod_body(annotations={key: wrong}), "NodeNames": ["n1"]})
    reason = answer["FailedAndUnresolvableNodes"]["n1"]
    assert key in reason
    assert len(reason) <= 500


async def test_filter_changes_nothing(world: World) -> None:
    before = world.ledger.node("n1")
    bench = Bench(world)
    first = await bench.ask("filter", {"Pod": pod_body(), "NodeNames": ["n1"]})
    second = await bench.ask("filter", {"Pod": pod_body(), "NodeNames": ["n1"]})
    assert first == second
    assert world.ledger.node("n1") is before


async def test_prioritize_scores_every_node_and_packs(world: World) -> None:
    world.see_node(node_body("n2"))
    world.see_pod(world.bound_body(pod_body("other"), "n2"))
    answer = await Bench(world).ask("prioritize", {"Pod": pod_body(), "NodeNames": ["n1", "n2"]})
    scores = {item["Host"]: item["Score"] for item in answer}
    assert scores["n2"] > scores["n1"] > 0


async def test_bind_writes_one_binding_with_the_decision(world: World) -> None:
    world.see_pod(pod_body())
    bench = Bench(world)
    args = {"PodName": "a", "PodNamespace": "default", "PodUID": "uid-a", "Node": "n1"}
    assert await bench.ask("bind", args) == {"Error": ""}
    [(uid, node, annotations)] = bench.api.bindings
    assert (uid, node) == ("uid-a", "n1")
    assert json.loads(annotations["alloc.mica.dev/c0"])["gpus"] == [{"uuid": "GPU-n1-0", "mem": 3072, "cores": 20}]
    assert world.used("n1")[0] == (3072, 20, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PodUID": "forged"}, "uid"),
        ({"PodName": "unknown"}, "not known"),
        ({"Node": "none"}, "node unregistered"),
    ],
)
async def test_bind_believes_the_watch_and_not_the_call(world: World, change: dict[str, str], words: str) -> None:
    world.see_pod(pod_body())
    bench = Bench(world)
    args = {"PodName": "a", "PodNamespace": "default", "PodUID": "uid-a", "Node": "n1", **change}
    assert words in (await bench.ask("bind", args))["Error"]
    assert bench.api.bindings == []


async def test_another_schedulers_pod_is_not_bound(world: World) -> None:
    body = pod_body()
    body["spec"]["schedulerName"] = "default-scheduler"
    world.see_pod(body)
    bench = Bench(world)
    answer = await bench.ask("bind", {"PodName": "a", "PodNamespace": "default", "PodUID": "uid-a", "Node": "n1"})
    assert "default-scheduler" in answer["Error"]


@pytest.mark.parametrize(("leading", "synced", "words"), [(False, True, "Lease"), (True, False, "not read")])
async def test_nothing_is_decided_before_the_caches_are_full_or_without_the_lease(
    world: World, leading: bool, synced: bool, words: str
) -> None:
    world.see_pod(pod_body())
    bench = Bench(world, leading=leading, synced=synced)
    assert words in (await bench.ask("filter", {"Pod": pod_body(), "NodeNames": ["n1"]}))["Error"]
    args = {"PodName": "a", "PodNamespace": "default", "PodUID": "uid-a", "Node": "n1"}
    assert words in (await bench.ask("bind", args))["Error"]
    assert bench.api.bindings == []


async def test_preempt_passes_victims_through_for_a_pod_that_asks_for_no_slice(world: World) -> None:
    body = pod_body(containers=[ContainerRequest("main")])
    victims = {"n1": {"Pods": [{"metadata": {"uid": "v1", "name": "v"}}], "NumPDBViolations": 1}}
    answer = await Bench(world).ask("preempt", {"Pod": body, "NodeNameToVictims": victims, "NodeNameToMetaVictims": None})
    assert answer == {"NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "v1"}], "NumPDBViolations": 1}}}


async def test_preempt_keeps_only_nodes_where_the_pod_fits_once_the_victims_are_gone(world: World) -> None:
    world.see_node(node_body("n2"))
    for name, node in (("v1", "n1"), ("v2", "n1"), ("v3", "n2"), ("v4", "n2")):
        world.see_pod(world.bound_body(pod_body(name, containers=BIG), node))
    victims = {
        "n1": {"Pods": [{"UID": "uid-v1"}], "NumPDBViolations": 0},
        "n2": {"Pods": [{"UID": "nobody"}], "NumPDBViolations": 0},
    }
    answer = await Bench(world).ask("preempt", {"Pod": pod_body(), "NodeNameToVictims": None, "NodeNameToMetaVictims": victims})
    assert answer["NodeNameToMetaVictims"] == {"n1": victims["n1"]}


async def test_preempt_keeps_victims_without_slices_exactly_where_the_pod_fits_as_it_is(world: World) -> None:
    """They give the pod CPU; cards they do not give, so that a node whose cards are full is no candidate for all its victims."""
    world.see_node(node_body("full"))
    for index in range(2):
        world.see_pod(world.bound_body(pod_body(f"big{index}", containers=BIG), "full"))
    pods = [{"metadata": {"uid": f"cpu-{index}", "name": "no-slice"}} for index in range(2)]
    victims = {name: {"Pods": pods, "NumPDBViolations": 2} for name in ("n1", "full", "no GPU there")}
    answer = await Bench(world).ask("preempt", {"Pod": pod_body(), "NodeNameToVictims": victims})
    kept = {"n1": {"Pods": [{"UID": "cpu-0"}, {"UID": "cpu-1"}], "NumPDBViolations": 2}}
    assert answer == {"NodeNameToMetaVictims": kept}


async def test_nobody_is_preempted_for_a_pod_whose_request_cannot_be_honoured(world: World) -> None:
    pod = pod_body(annotations={"mica.dev/request": "nonsense"})
    answer = await Bench(world).ask("preempt", {"Pod": pod, "NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "v"}]}}})
    assert answer == {"NodeNameToMetaVictims": {}}


@pytest.mark.parametrize("leading", [True, False])
async def test_nobody_is_preempted_before_this_replica_may_decide(world: World, leading: bool) -> None:
    bench = Bench(world, leading=leading, synced=not leading)
    answer = await bench.ask("preempt", {"Pod": pod_body(), "NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "v"}]}}})
    assert answer == {"NodeNameToMetaVictims": {}}


@pytest.mark.parametrize("verb", ["filter", "prioritize", "bind", "preempt"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"Pod":7}', b'{"Pod":{"metadata":{"annotations":[]}}}', b"\xff\xfe", b"[" * 5000]
)
async def test_malformed_arguments_are_answered_and_never_fail_the_server(world: World, verb: str, body: bytes) -> None:
    status, reply = await Bench(world).call(verb, body)
    assert status == 200
    if verb in ("filter", "bind"):
        assert reply["Error"]


@settings(max_examples=150)
@given(
    st.sampled_from(["filter", "prioritize", "bind", "preempt"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Pod", "NodeNames", "Nodes", "items", "metadata", "uid", "spec", "containers", "name", "PodUID"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
)
async def test_any_json_is_answered(verb: str, body: Any) -> None:
    status, _ = await Bench(World()).call(verb, json.dumps(body).encode())
    assert status == 200


async def test_a_verb_that_does_not_exist_is_not_found(world: World) -> None:
    assert (await Bench(world).call("evict", b"{}"))[0] == 404
    assert (await Bench(world).call("filter", b"", method="GET"))[0] == 405


async def test_refusals_are_counted_by_code(world: World) -> None:
    bench = Bench(world)
    await bench.ask("filter", {"Pod": pod_body(containers=[ContainerRequest("main", number=3)]), "NodeNames": ["n1", "none"]})
    assert bench.registry.get_sample_value("mica_extender_refusals_total", {"code": "NodeInsufficientDevice"}) == 1
    assert bench.registry.get_sample_value("mica_extender_refusals_total", {"code": "node unregistered"}) == 1
    assert bench.registry.get_sample_value("mica_extender_filter_seconds_count") == 1


def test_the_clients_name_is_read_from_its_certificate() -> None:
    certificate = {"subject": ((("organizationName", "x"),), (("commonName", "mica-scheduler"),))}
    assert client_name(certificate) == "mica-scheduler"
    assert client_name(None) == ""
