"""`/explain` as its users ask it, over the admin app: by query or body, wrongly, and with several workers who report."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mica_router.admin import build_admin
from mica_router.core.choice import LoadView
from mica_router.core.engines import Endpoint, Engine
from mica_router.core.routes import RouteTable, Service, ServiceKey, build_table
from mica_router.core.routing import Routing
from mica_router.core.rules import parse_rules
from mica_router.core.tier_chooser import TierChooser
from mica_router.explain import explain_request
from mica_router.metrics import ModelDemand
from mica_router.relay.load import Load
from mica_router.settings import RouterSettings
from mica_router.workers.supervisor import Supervisor
from mica_router.workers.view import SupervisorView

from .conftest import eventually

GPU, SPARE = (Engine(endpoint=Endpoint("10.0.0.1", port), kind="vllm", max_in_flight=4) for port in (1, 2))
CPU = Engine(endpoint=Endpoint("10.0.0.1", 3), kind="vllm", tier="cpu", max_in_flight=4)
RULES = parse_rules(
    [
        {"name": "long", "conditions": {"max_tokens": {"gte": 1000}}, "action": {"device": "CPU"}},
        {"name": "vectors", "conditions": {"path": {"eq": "/v1/embeddings"}}, "action": {"device": "CPU"}},
        {"name": "batch", "conditions": {"header:x-class": {"eq": "batch"}}, "action": {"device": "CPU"}},
        {"name": "streams", "conditions": {"stream": {"eq": True}}, "action": {"device": "CPU"}},
        {"name": "people", "conditions": {"user": {"eq": "a b"}}, "action": {"device": "CPU"}},
    ]
)
NAMES = ("chat", "123", "true", "null", "1.5", "[]", "x&y=z", "ü/1", '"')


def served() -> RouteTable:
    """Models of one engine by names of all sorts, `chat` with two tiers and rules, and one that asks for a key."""
    tiers = Service(key=ServiceKey("a", "chat"), model="chat", engines=(GPU, CPU), routing=Routing(rules=RULES))
    others = [Service(key=ServiceKey("a", f"m{n}"), model=name, engines=(SPARE,)) for n, name in enumerate(NAMES[1:])]
    locked = Service(key=ServiceKey("b", "locked"), model="locked", engines=(GPU,), routing=Routing(api_keys=(b"x" * 32,)))
    return build_table([tiers, *others, locked])


def admin_of(table: RouteTable, load: LoadView) -> TestClient:
    app = build_admin(
        registry=CollectorRegistry(),
        ready={},
        demand=dict,
        explain=lambda path, body, headers: explain_request(path, body, headers, table=table, chooser=TierChooser(), load=load),
    )
    return TestClient(app)


ADMIN = admin_of(served(), Load(lambda: 0.0))


def told(path: str = "/v1/chat/completions", **query: str) -> dict[str, Any]:
    answer = ADMIN.get("/explain", params={"path": path, **query})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


@pytest.mark.parametrize("name", NAMES)
def test_every_model_can_be_asked_for_by_its_name(name: str) -> None:
    assert told(model=name)["model"] == name
    assert ADMIN.post("/explain", json={"model": name}).json()["model"] == name


def test_a_name_may_be_quoted_as_any_string() -> None:
    assert told(model='"123"')["model"] == "123"


def test_a_path_names_a_model_as_it_does_for_clients() -> None:
    assert told("/models/a/chat/v1/chat/completions")["service"] == "a/chat"


def test_who_may_use_the_admin_port_needs_no_key() -> None:
    assert told(model="locked")["engine"] == GPU.endpoint.authority


@pytest.mark.parametrize(
    "query",
    [{"max_tokens": "1000"}, {"path": "/v1/embeddings"}, {"stream": "true"}, {"user": "a b"}],
    ids=lambda query: next(iter(query)),
)
def test_what_the_query_says_is_what_rules_see(query: dict[str, str]) -> None:
    assert (told(model="chat")["tier"], told(model="chat", **query)["tier"]) == ("gpu", "cpu")


def test_headers_are_those_of_the_question() -> None:
    batch = {"X-Class": "batch"}
    assert ADMIN.get("/explain", params={"model": "chat"}, headers=batch).json()["tier"] == "cpu"
    assert ADMIN.post("/explain", json={"model": "chat"}, headers=batch).json()["tier"] == "cpu"


@settings(max_examples=30)
@given(
    max_tokens=st.integers(1, 3000),
    stream=st.booleans(),
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/models/a/chat/v1/responses"]),
)
def test_a_query_and_the_body_that_it_stands_for_get_one_answer(max_tokens: int, stream: bool, path: str) -> None:
    query = {"model": "chat", "max_tokens": str(max_tokens), "stream": str(stream).lower()}
    body = json.dumps({"model": "chat", "max_tokens": max_tokens, "stream": stream}, separators=(",", ":"))
    assert told(path, **query) == ADMIN.post("/explain", params={"path": path}, content=body).json()


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 400, "set the field 'model'"),
        ({"model": ""}, 400, "set the field 'model'"),
        ({"model": "chatt"}, 404, "GET /v1/models lists the models that do"),
        ({"model": "chat", "path": "/v1/models"}, 405, "use GET"),
        ({"model": "chat", "path": "/explain"}, 404, "/v1/..., /tokenize, /detokenize and /health are"),
        ({"model": "chat", "path": "/models/a/nobody/v1/completions"}, 404, "GET /v1/models lists the models that do"),
        ({"model": "chat", "path": "v1/completions"}, 400, "begin it with '/', as in /v1/chat/completions"),
        ({"model": "chat", "path": ""}, 400, "begin it with '/', as in /v1/chat/completions"),
    ],
)
def test_a_wrong_query_is_told_what_to_change(query: dict[str, str], status: int, words: str) -> None:
    answer = ADMIN.get("/explain", params=query)
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert answer.json()["refused"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"model=chat", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'["chat"]', "must be an object"),
        (b"[" * 100_000, "JSON"),
        (b'{"model": 123}', "'model' must be a string"),
    ],
)
def test_a_wrong_body_is_told_what_to_change(body: bytes, words: str) -> None:
    answer = ADMIN.post("/explain", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["message"]


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["model", "path", "stream", "max_tokens", "messages", "response_format"]), st.text(max_size=8)
    )
)
@example({"path": "//["})
@example({"path": "http://[/v1/completions", "model": "chat"})
@example({"model": "[" * 5000})
@example({"model": "chat", "max_tokens": "1e999", "response_format": "NaN"})
def test_whatever_is_asked_is_answered_or_refused_in_words(query: dict[str, str]) -> None:
    answer = ADMIN.get("/explain", params=query)
    content = answer.json()
    assert answer.status_code == 200 or (400 <= answer.status_code < 500 and content["message"] and content["refused"])


REPORTING = """
import argparse, asyncio, socket
from mica_router.core.engines import Endpoint
from mica_router.exposition import Snapshot
from mica_router.metrics import ModelDemand
from mica_router.relay.board import Board, SharedCounts
from mica_router.workers.channel import Channel, Listening, Numbers, Table

parser = argparse.ArgumentParser()
for name in ("board", "channel", "column"):
    parser.add_argument(f"--{name}", type=int)
given = parser.parse_args()
GPU, SPARE, CPU = (Endpoint("10.0.0.1", port) for port in (1, 2, 3))

async def run():
    channel = await Channel.over(socket.socket(fileno=given.channel))
    counts = SharedCounts(Board(given.board, workers=2), column=given.column)
    while (message := await channel.receive()) is not None:
        if isinstance(message, Table):
            counts.use(message.board)
            counts.add(GPU, given.column + 1)
            taken_out = [SPARE] if given.column == 0 else [SPARE, CPU]
            channel.send(Listening())
            channel.send(Numbers(Snapshot(demand={"chat": ModelDemand(0, 2, 0.0)}), taken_out))

asyncio.run(run())
"""


async def test_with_several_workers_the_answer_is_made_of_what_they_report(tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(REPORTING)
    routes = tmp_path / "routes.yaml"
    two = RouterSettings(host="127.0.0.1", port=0, routes="file", routes_file=routes, workers=2, drain_timeout=0)
    supervisor = Supervisor(two, command=[sys.executable, str(program)])
    table = build_table([Service(key=ServiceKey("a", "chat"), model="chat", engines=(GPU, SPARE, CPU))])
    admin = admin_of(table, SupervisorView(supervisor, gauges_of=lambda endpoint: None))
    running = asyncio.ensure_future(supervisor.run())
    try:
        supervisor.publish(table)
        await eventually(lambda: supervisor.snapshot().demand.get("chat") == ModelDemand(0, 4), patience=60)  # interpreters start
        answer = admin.get("/explain", params={"model": "chat"}).json()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    seen = {one["engine"]: (one["inFlight"], one["fitness"]) for one in answer["candidates"]}
    assert seen == {"10.0.0.1:1": (3, 1.0), "10.0.0.1:2": (0, 0.0), "10.0.0.1:3": (0, 1.0)}, "out is what all took out"
    assert answer["tiers"]["gpu"]["waiting"] == 4
