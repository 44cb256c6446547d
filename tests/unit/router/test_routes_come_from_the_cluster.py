"""InferenceServices and EndpointSlices become routes; changes follow, objects that cannot be read are left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mica_router.core.engines import Endpoint
from mica_router.core.routes import RouteTable, ServiceKey
from mica_router.sources.cluster import SERVICES_PATH, SLICES_PATH, ClusterRouteSource
from mica_router.sources.cluster_objects import read_endpoint_slice, read_inference_service

from .conftest import within

LABEL = "mica.dev/inference-service"


def minf(
    name: str, *, namespace: str = "team-a", model: str | None = None, created: str = "2026-01-01T00:00:00Z"
) -> dict[str, Any]:
    source = {"uri": "file:///m.gguf", **({"name": model} if model else {})}
    meta = {"name": name, "namespace": namespace, "creationTimestamp": created, "resourceVersion": "1", "uid": name}
    return {"metadata": meta, "spec": {"model": source, "engine": {"port": 8000}}}


def endpoint_slice(service: str, *addresses: str, namespace: str = "team-a", suffix: str = "x", **changes: Any) -> dict[str, Any]:
    body = {
        "metadata": {
            "name": f"{service}-{suffix}",
            "namespace": namespace,
            "labels": {LABEL: service, "kubernetes.io/service-name": service},
            "resourceVersion": "1",
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
    }
    return body | changes


class FakeApi:
    """Lists what it was given, then streams the events that a test sends."""

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.lists = {SERVICES_PATH: objects.get("services", []), SLICES_PATH: objects.get("slices", [])}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._events: dict[str, asyncio.Queue[bytes]] = {path: asyncio.Queue() for path in self.lists}

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        self.asked.append((path, dict(params or {})))
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": self.lists[path]}).encode()

    async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        while True:
            yield await self._events[path].get()

    def send(self, path: str, kind: str, obj: dict[str, Any], *, version: str = "2") -> None:
        obj["metadata"]["resourceVersion"] = version
        self._events[path].put_nowait(json.dumps({"type": kind, "object": obj}).encode())


class Followed:
    def __init__(self, api: FakeApi) -> None:
        self.tables: asyncio.Queue[RouteTable] = asyncio.Queue()
        self.task = asyncio.ensure_future(ClusterRouteSource(api).run(self.tables.put_nowait))

    async def next(self) -> RouteTable:
        return await within(self.tables.get())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_services_and_their_ready_engines_become_routes() -> None:
    not_ready = endpoint_slice("chat", suffix="y")
    not_ready["endpoints"] = [
        {"addresses": ["10.0.0.9"], "conditions": {"ready": False}},
        {"addresses": ["10.0.0.2"], "conditions": {}},
    ]
    api = FakeApi(
        services=[minf("chat", model="org/chat"), minf("idle")],
        slices=[endpoint_slice("chat", "10.0.0.1"), not_ready, endpoint_slice("chat", "10.0.0.7", namespace="other")],
    )
    followed = Followed(api)
    table = await followed.next()
    route = table.for_model("org/chat")
    assert route is not None
    assert route.service.endpoints == (Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000))
    assert [r.public_name for r in table.listed] == ["idle", "org/chat"]
    assert (SLICES_PATH, LABEL) in [(path, params.get("labelSelector")) for path, params in api.asked]
    await followed.end()


async def test_the_older_of_two_services_keeps_the_bare_name() -> None:
    api = FakeApi(
        services=[
            minf("chat", namespace="a", created="2026-02-01T00:00:00Z"),
            minf("chat", namespace="b", created="2026-01-01T00:00:00Z"),
        ]
    )
    followed = Followed(api)
    table = await followed.next()
    owner = table.for_model("chat")
    assert owner is not None
    assert owner.service.key == ServiceKey("b", "chat")
    assert [r.public_name for r in table.listed] == ["a/chat", "chat"]
    await followed.end()


async def test_engines_that_come_and_go_change_the_table() -> None:
    api = FakeApi(services=[minf("chat")])
    followed = Followed(api)

    async def engines() -> tuple[Endpoint, ...]:
        route = (await followed.next()).for_model("chat")
        assert route is not None
        return route.service.endpoints

    assert await engines() == ()
    api.send(SLICES_PATH, "ADDED", endpoint_slice("chat", "10.0.0.1"))
    assert await engines() == (Endpoint("10.0.0.1", 8000),)
    api.send(SLICES_PATH, "MODIFIED", endpoint_slice("chat", "10.0.0.1"), version="3")
    api.send(SLICES_PATH, "MODIFIED", endpoint_slice("chat", "10.0.0.1", "10.0.0.2"), version="4")
    assert len(await engines()) == 2
    api.send(SLICES_PATH, "DELETED", endpoint_slice("chat"), version="5")
    assert await engines() == ()
    api.send(SERVICES_PATH, "DELETED", minf("chat"), version="6")
    assert (await followed.next()).for_model("chat") is None
    await followed.end()


async def test_a_service_that_cannot_be_read_is_left_out_alone() -> None:
    broken = minf("broken")
    broken["spec"]["model"]["name"] = 7
    followed = Followed(FakeApi(services=[broken, minf("chat")]))
    assert [r.public_name for r in (await followed.next()).listed] == ["chat"]
    await followed.end()


def test_only_the_port_named_http_counts() -> None:
    ports = [{"name": "metrics", "port": 9090}, {"name": "http", "port": 8000}, {"name": "http", "port": None}, {}]
    read = read_endpoint_slice(json.dumps(endpoint_slice("chat", "10.0.0.1", ports=ports)).encode())
    assert read.places == ((Endpoint("10.0.0.1", 8000), ""),)


@pytest.mark.parametrize("changes", [{"endpoints": None}, {"ports": None}, {"endpoints": [], "ports": []}])
def test_an_empty_slice_has_no_engines(changes: dict[str, Any]) -> None:
    assert read_endpoint_slice(json.dumps(endpoint_slice("chat", "10.0.0.1") | changes).encode()).places == ()


def test_the_model_name_defaults_to_the_objects_name() -> None:
    assert read_inference_service(json.dumps(minf("chat")).encode()).service.model == "chat"
    assert read_inference_service(json.dumps(minf("chat", model="org/x")).encode()).service.model == "org/x"
