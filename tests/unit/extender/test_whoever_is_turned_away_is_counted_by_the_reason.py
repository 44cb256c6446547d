"""Binds that are declined and pods that are refused at admission: each adds one to the counter of its own reason."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mica_api.request import ContainerRequest, PodRequest, encode_request
from mica_extender.admission.app import AdmissionApp
from mica_extender.admission.rules import Rules
from mica_extender.metrics import Metrics
from mica_extender.ports import BindingApi, BindingLost, BindingRefused, PodGone
from mica_extender.scheduling.app import SchedulerApp
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.declined import Declined
from mica_extender.scheduling.wire import BindQuestion
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord, decode_pod

from .conftest import PodBody, World, node_body, pod_body
from .review_words import review_answer

ASK = BindQuestion("default", "a", "uid-a", "n1")
CONTAINER: Mapping[str, Any] = {"name": "main", "resources": {"limits": {"mica.dev/vgpu-number": 1}}}


BIND = json.dumps({"PodNamespace": "default", "PodName": "a", "PodUID": "uid-a", "Node": "n1"}).encode()


class NeverLeading:
    """A replica that waits."""

    def leading(self) -> bool:
        return False

    def term(self) -> str:
        return ""


class Answering:
    """An API that gives one answer to each bind, and to each read the next of several (the last again and again)."""

    def __init__(self, answer: Exception | None, *stored: PodBody | Exception) -> None:
        self.answer = answer
        self.stored = list(stored)

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        if self.answer is not None:
            raise self.answer

    async def read(self, pod: PodRecord) -> PodRecord:
        stored = self.stored.pop(0) if len(self.stored) > 1 else self.stored[0]
        if isinstance(stored, Exception):
            raise stored
        return decode_pod(json.dumps(stored).encode())


def counted(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """What is not zero of a counter, by the values of its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"mica_extender_{name}_total" and sample.value
    }


class Holding:
    """An API that binds when it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        self.asked.set()
        await self.go_on.wait()

    async def read(self, pod: PodRecord) -> PodRecord:
        raise AssertionError("it is bound")


def binder_of(world: World, metrics: Metrics, api: BindingApi) -> Binder:
    """A binder on this replica, which leads."""
    leading = AlwaysLeading()
    return Binder(ledger=world.ledger, pods=world.pods, api=api, leadership=leading, on_decline=metrics.bind_declined)


REQUEST = encode_request(PodRequest((ContainerRequest("main", number=1),)))
CONFLICT = BindingRefused("409", conflict=True)


@pytest.mark.parametrize(
    ("reason", "ask", "answer", "stored"),
    [
        ("UnknownPod", replace(ASK, name="b"), None, ()),
        ("AnotherPod", replace(ASK, uid="uid-b"), None, ()),
        ("NodeUnregistered", replace(ASK, node="n9"), None, ()),
        ("APIRefused", ASK, BindingRefused("403", conflict=False), ()),
        ("PodEnding", ASK, BindingLost("reset"), (PodGone("gone"),)),
        ("NotStored", ASK, CONFLICT, (pod_body(),)),
        ("PodChanged", ASK, CONFLICT, (pod_body(revision="7"), pod_body(revision="8"))),
        ("BoundElsewhere", ASK, CONFLICT, (pod_body(node="n2"),)),
        ("ForeignDecision", ASK, CONFLICT, (pod_body(node="n1"),)),
    ],
)
async def test_a_declined_bind(
    world: World, reason: str, ask: BindQuestion, answer: Exception | None, stored: Sequence[PodBody | Exception]
) -> None:
    metrics = Metrics(CollectorRegistry())
    world.see_pod(pod_body())
    assert await binder_of(world, metrics, Answering(answer, *stored)).bind(ask) != ""
    assert counted(metrics, "binds_declined") == {(reason,): 1}


def called(name: str, **changes: Any) -> PodBody:
    """An admitted pod with another spec."""
    body = pod_body(name)
    body["spec"] |= changes
    return body


@pytest.mark.parametrize(
    ("reason", "pod"),
    [
        ("AnotherScheduler", called("a", schedulerName="default-scheduler")),
        ("InvalidRequest", pod_body(annotations={"mica.dev/request": "{"})),
        ("PodEnding", pod_body(phase="Failed")),
    ],
)
async def test_a_bind_of_a_pod_that_cannot_be_bound(world: World, reason: str, pod: PodBody) -> None:
    metrics = Metrics(CollectorRegistry())
    world.see_pod(pod)
    assert await binder_of(world, metrics, Answering(None)).bind(ASK) != ""
    assert counted(metrics, "binds_declined") == {(reason,): 1}


async def test_a_bind_to_another_node_than_the_one_that_is_under_way(world: World) -> None:
    metrics = Metrics(CollectorRegistry())
    world.see_pod(pod_body())
    api = Holding()
    binder = binder_of(world, metrics, api)
    first = asyncio.create_task(binder.bind(ASK))
    await api.asked.wait()
    assert "being bound to n1" in await binder.bind(replace(ASK, node="n2"))
    api.go_on.set()
    assert await first == ""
    assert counted(metrics, "binds_declined") == {("UnderWay",): 1}


async def test_what_is_declined_is_gone_with_its_answer(world: World) -> None:
    """Nothing is left for the garbage collector, which looks seldom."""
    world.see_node(node_body("n1", memory_mib=1024))
    world.see_pod(pod_body())
    binder = binder_of(world, Metrics(CollectorRegistry()), Answering(None))
    gc.collect()
    gc.disable()
    try:
        assert "no room" in await binder.bind(ASK)
        await asyncio.sleep(0)
        left = [found for found in gc.get_objects() if isinstance(found, Declined)]
    finally:
        gc.enable()
    assert left == []


async def test_a_node_without_room(world: World) -> None:
    metrics = Metrics(CollectorRegistry())
    world.see_node(node_body("n1", memory_mib=1024))
    world.see_pod(pod_body())
    assert "no room" in await binder_of(world, metrics, Answering(None)).bind(ASK)
    assert counted(metrics, "binds_declined") == {("NoRoom",): 1}


@pytest.mark.parametrize(
    ("reason", "synced", "leading", "body"),
    [
        ("NotSynced", False, True, BIND),
        ("NotLeading", True, False, BIND),
        ("Malformed", True, True, b"{"),
        ("Malformed", True, True, None),
        ("InternalError", True, True, BIND),
    ],
)
async def test_a_bind_that_never_came_to_the_binder(
    world: World, reason: str, synced: bool, leading: bool, body: bytes | None
) -> None:
    metrics = Metrics(CollectorRegistry())
    broken: Any = None  # a binder that fails in a way that nobody foresaw
    leadership = AlwaysLeading() if leading else NeverLeading()
    app = SchedulerApp(ledger=world.ledger, binder=broken, leadership=leadership, synced=lambda: synced, metrics=metrics)
    reply = await app.respond("POST", "/bind", body)
    assert json.loads(reply.body)["Error"]
    assert counted(metrics, "binds_declined") == {(reason,): 1}
    assert counted(metrics, "errors") == {("bind",): 1}


@pytest.mark.parametrize(
    ("stage", "reason", "spec", "meta"),
    [
        ("mutate", "BypassesPlacement", {"nodeName": "n1"}, {}),
        ("mutate", "BypassesPlacement", {"schedulerName": "mine"}, {}),
        ("mutate", "SwitchesLimitsOff", {"hostPID": True}, {}),
        ("mutate", "SwitchesLimitsOff", {"containers": [{**CONTAINER, "securityContext": {"privileged": True}}]}, {}),
        ("mutate", "SwitchesLimitsOff", {"containers": [{**CONTAINER, "env": [{"name": "LD_PRELOAD", "value": "x"}]}]}, {}),
        ("mutate", "InitContainer", {"initContainers": [{**CONTAINER, "name": "first"}]}, {}),
        ("mutate", "ForgedDecision", {}, {"alloc.mica.dev/c0": "{}"}),
        ("mutate", "UnknownAnnotation", {}, {"mica.dev/colour": "blue"}),
        ("mutate", "InvalidRequest", {}, {"mica.dev/node-policy": "best"}),
        ("validate", "OtherWebhook", {}, {"mica.dev/request": REQUEST}),
    ],
)
async def test_a_refused_pod(stage: str, reason: str, spec: Mapping[str, Any], meta: Mapping[str, str]) -> None:
    metrics = Metrics(CollectorRegistry())
    pod = {"metadata": {"annotations": meta}, "spec": {"containers": [CONTAINER], **spec}}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "object": pod}}
    app = AdmissionApp(rules=Rules, metrics=metrics)
    _, response = await review_answer(app, stage, json.dumps(review).encode())
    assert not response["allowed"]
    assert counted(metrics, "admission_denied") == {(stage, reason): 1}, response


async def test_a_pod_that_is_refused_because_of_a_fault_of_ours() -> None:
    def fails() -> Rules:
        raise ZeroDivisionError

    metrics = Metrics(CollectorRegistry())
    pod = {"metadata": {}, "spec": {"containers": [CONTAINER]}}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "object": pod}}
    _, response = await review_answer(AdmissionApp(rules=fails, metrics=metrics), "mutate", json.dumps(review).encode())
    assert not response["allowed"]
    assert counted(metrics, "admission_denied") == {("mutate", "InternalError"): 1}
