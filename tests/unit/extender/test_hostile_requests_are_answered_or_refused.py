"""10,000 malformed requests over real HTTP/1.1 and HTTP/2 to the scheduler's application, put together as in production.

Nothing may crash it, no answer may be a server error or say that something inside has failed, memory stays bounded, nothing is
ever sent to the API server on their account, and a good request is answered as always.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mica_extender.metrics import Metrics
from mica_extender.placement.kernels import load_native
from mica_extender.scheduling.app import MAX_BODY, SchedulerApp
from mica_extender.scheduling.binder import Binder
from mica_extender.scheduling.templates import Templates
from mica_extender.scheduling.verbs import NodeVerbs
from mica_extender.state.leadership import AlwaysLeading
from mica_extender.state.records import PodRecord
from mica_runtime.http import serve
from mica_runtime.http2.connection import Http2Protocol

from .conftest import World, node_body, pod_body
from .http2_words import as_http2, complete, status_and_body

REQUESTS = 10_000
AT_ONCE = 200
VERBS = ("filter", "prioritize", "bind", "preempt")
GROWTH_MIB = 64


class NoApi:
    """An API server that must not be asked for anything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def bind(self, pod: PodRecord, *, node: str, annotations: Mapping[str, str]) -> None:
        self.asked.append(pod.key)

    async def read(self, pod: PodRecord) -> PodRecord:
        self.asked.append(pod.key)
        return pod


class Server:
    """The application behind uvicorn on a loopback port, and over HTTP/2 on another one."""

    def __init__(self) -> None:
        self.world = World()
        for index in range(20):
            self.world.see_node(node_body(f"n{index}"))
        foreign = pod_body("foreign")
        foreign["spec"]["schedulerName"] = "default-scheduler"
        self.world.see_pod(foreign)
        self.world.see_pod(pod_body("ending") | {"status": {"phase": "Failed"}})
        self.api = NoApi()
        leadership = AlwaysLeading()
        binder = Binder(ledger=self.world.ledger, pods=self.world.pods, api=self.api, leadership=leadership)
        ledger = self.world.ledger
        self.app = SchedulerApp(
            ledger=ledger,
            nodes=NodeVerbs(ledger=ledger, kernel=load_native(), template=Templates({})),
            binder=binder,
            leadership=leadership,
            synced=lambda: True,
            metrics=Metrics(CollectorRegistry()),
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.listening = asyncio.Event()

    async def run(self) -> None:
        peers: set[Any] = set()
        loop = asyncio.get_running_loop()

        def http2() -> Http2Protocol:
            return Http2Protocol(self.app.respond, self.app.at_once, body_limit=MAX_BODY, peers=peers)

        async with await loop.create_server(http2, "127.0.0.1", 0) as server:
            self.http2_port: int = server.sockets[0].getsockname()[1]
            await serve(self.app, host="127.0.0.1", port=self.port, on_listening=self.listening.set)

    async def say_http2(self, raw: bytes, *, patience: float) -> tuple[int, bytes]:
        """The same request over HTTP/2: status (0 without an answer) and body."""
        return status_and_body(await self.say(as_http2(raw), patience=patience, port=self.http2_port, ended=complete))

    async def say(
        self,
        *parts: bytes,
        pause: float = 0.0,
        patience: float = 5.0,
        port: int = 0,
        ended: Callable[[bytes], bool] = lambda _: False,
    ) -> bytes:
        """Send the bytes on a connection of their own, perhaps slowly, and read what comes back; hang up when patience ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            answer = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while not ended(answer) and (part := await reader.read(2**16)):
                        answer += part
            return answer
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def good(self) -> Any:
        """A question as kube-scheduler asks it."""
        body = json.dumps({"Pod": pod_body(), "NodeNames": ["n0"]}).encode()
        answer = await self.say(request("filter", body))
        return json.loads(answer.partition(b"\r\n\r\n")[2])


def request(verb: str, body: bytes, *, method: str = "POST", length: int | str | None = None, extra: str = "") -> bytes:
    """A request on the wire, with any length said."""
    said = len(body) if length is None else length
    return f"{method} /{verb} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}Content-Length: {said}\r\n\r\n".encode() + body


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    running = asyncio.create_task(made.run())
    await asyncio.wait_for(made.listening.wait(), 20)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Malice:
    """Draws a request: a good one, spoilt in one way or another."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def draw(self) -> tuple[str, bytes]:
        """(what was done, bytes to send)."""
        kinds = (
            self.spoilt_value,
            self.cut_off,
            self.noise,
            self.odd_frame,
            self.huge_number,
            self.deep,
            self.liar,
            self.unknown,
        )
        kind = self.random.choice(kinds)
        return kind.__name__, kind()

    def arguments(self) -> dict[str, Any]:
        pod = pod_body(self.random.choice(("a", "foreign", "ending", "unknown")))
        if self.random.random() < 0.5:
            return {"PodName": pod["metadata"]["name"], "PodNamespace": "default", "PodUID": "uid-x", "Node": "n0"}
        return {
            "Pod": pod,
            "NodeNames": [f"n{i}" for i in range(5)],
            "Nodes": None,
            "NodeNameToMetaVictims": {"n0": {"Pods": []}},
        }

    def verb(self) -> str:
        return self.random.choice(VERBS)

    def anything(self, depth: int = 0) -> Any:
        choice = self.random.randrange(9 if depth < 4 else 7)
        plain = (None, True, -1, 1.5e308, "", "\u0000\ud800x" * 3, 2**70)
        if choice < 7:
            return plain[choice]
        if choice == 7:
            return [self.anything(depth + 1) for _ in range(self.random.randrange(4))]
        keys = ("metadata", "uid", "annotations", "Pods", "items", "name", "spec", "containers", "resources", "limits")
        return {self.random.choice(keys): self.anything(depth + 1) for _ in range(self.random.randrange(4))}

    def spoilt_value(self) -> bytes:
        body = self.arguments()
        where: Any = body
        for _ in range(self.random.randrange(1, 5)):
            keys = list(where) if isinstance(where, dict) else list(range(len(where)))
            key = self.random.choice(keys)
            if not isinstance(where[key], dict | list) or not where[key] or self.random.random() < 0.3:
                where[key] = self.anything()
                break
            where = where[key]
        return request(self.verb(), json.dumps(body).encode())

    def cut_off(self) -> bytes:
        body = json.dumps(self.arguments()).encode()
        cut = body[: self.random.randrange(len(body))]
        return request(self.verb(), cut, length=self.random.choice((None, len(body))))

    def noise(self) -> bytes:
        body = self.random.randbytes(self.random.randrange(400))
        return self.random.choice((body, request(self.verb(), body)))

    def odd_frame(self) -> bytes:
        body = json.dumps(self.arguments()).encode()
        return self.random.choice(
            (
                request(self.verb(), body, length=self.random.choice((-1, "x", 2**63, 0, len(body) // 2))),
                request(self.verb(), body, method=self.random.choice(("GET", "PUT", "DELETE", "OPTIONS", "BREW"))),
                request(self.random.choice(("evict", "", "filter/../bind", "bind?x=1", "%00", "a" * 5000)), body),
                request(self.verb(), body, extra="Transfer-Encoding: chunked\r\n"),
                request(self.verb(), body, extra=f"X-Long: {'y' * self.random.choice((100, 70_000))}\r\n"),
                request(self.verb(), body, extra="Content-Encoding: gzip\r\n"),
                request(self.verb(), body, extra="Upgrade: websocket\r\nConnection: Upgrade\r\n"),
            )
        )

    def huge_number(self) -> bytes:
        number = self.random.choice(("1" + "0" * 400, "-1e999", "NaN", "Infinity", "1e400"))
        text = '{"Pod":{"metadata":{"uid":%s}},"NodeNames":["n0"],"PodUID":%s,"NumPDBViolations":%s}' % ((number,) * 3)
        return request(self.verb(), text.encode())

    def deep(self) -> bytes:
        depth = self.random.choice((100, 2_000, 100_000))
        text = self.random.choice(("[" * depth, '{"Pod":' * depth, '{"Pod":{"x":' + "[" * depth + "]" * depth + "}}"))
        return request(self.verb(), text.encode())

    def liar(self) -> bytes:
        """Decisions and requests that the caller made up."""
        body = self.arguments()
        pod = body.setdefault("Pod", pod_body())
        decision = {"v": 1, "uid": pod["metadata"]["uid"], "node": "n0", "gpus": [{"uuid": "GPU-n0-0", "mem": 1, "cores": 1}]}
        pod["metadata"]["annotations"]["alloc.mica.dev/c0"] = self.random.choice((json.dumps(decision), "[]", "{", "x" * 9000))
        pod["spec"]["nodeName"] = "n0"
        return request(self.verb(), json.dumps(body).encode())

    def unknown(self) -> bytes:
        names = [self.random.choice(("n0", "", "no such", "x" * 300, "n0")) for _ in range(self.random.choice((0, 3, 3000)))]
        body = {"Pod": pod_body(), "NodeNames": names, "NodeNameToVictims": dict.fromkeys(names, None)}
        return request(self.verb(), json.dumps(body).encode())


def status(answer: bytes) -> int:
    """0 when the connection was closed without one."""
    line = answer.partition(b"\r\n")[0].split()
    return int(line[1]) if len(line) > 1 and line[0].startswith(b"HTTP/") else 0


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def _heard(server: Server, raw: bytes, *, over_http2: bool) -> tuple[int, bytes]:
    """Status and body."""
    if over_http2:
        return await server.say_http2(raw, patience=1.0)
    answer = await server.say(raw, patience=1.0)
    return status(answer), answer.partition(b"\r\n\r\n")[2]


async def test_the_same_question_is_answered_the_same_over_http2(server: Server) -> None:
    body = json.dumps({"Pod": pod_body(), "NodeNames": ["n0", "nowhere"]}).encode()
    for verb in ("filter", "prioritize"):
        raw = request(verb, body)
        assert (200, (await server.say(raw)).partition(b"\r\n\r\n")[2]) == await server.say_http2(raw, patience=5.0)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
async def test_ten_thousand_malformed_requests_change_nothing(server: Server) -> None:
    malice = Malice(5)
    expected = await server.good()
    seen: Counter[int] = Counter()
    done: Counter[str] = Counter()
    bad: list[tuple[str, bytes, bytes]] = []
    after_warming = 0.0
    for number in range(REQUESTS // AT_ONCE):
        drawn = [malice.draw() for _ in range(AT_ONCE)]
        over_http2 = number % 2 == 1
        answers = await asyncio.gather(*(_heard(server, raw, over_http2=over_http2) for _, raw in drawn))
        seen.update(status for status, _ in answers)
        done.update(kind for kind, _ in drawn)
        bad += [
            (kind, raw[:300], body[:300])
            for (kind, raw), (status, body) in zip(drawn, answers, strict=True)
            if status >= 500 or b"internal error" in body
        ]
        if number == REQUESTS // AT_ONCE // 10:
            after_warming = resident_mib()
    grown = resident_mib() - after_warming
    print(f"\n{sum(done.values())} requests: {dict(done)}; answers: {dict(seen)}; grown by {grown:.1f} MiB")
    assert bad == []
    assert sum(seen.values()) == REQUESTS
    assert seen[200] > REQUESTS / 3
    assert seen[400] > REQUESTS / 40
    assert grown < GROWTH_MIB
    assert server.api.asked == []
    assert server.world.ledger.size().reservations == 0
    assert await server.good() == expected


async def test_a_body_that_comes_slowly_keeps_nobody_waiting(server: Server) -> None:
    whole = request("filter", json.dumps({"Pod": pod_body(), "NodeNames": ["n0"]}).encode())
    parts = [whole[start : start + 60] for start in range(0, len(whole), 60)]
    slow = [asyncio.create_task(server.say(*parts, pause=0.02)) for _ in range(30)]
    assert (await server.good())["NodeNames"] == ["n0"]
    assert {status(answer) for answer in await asyncio.gather(*slow)} == {200}


async def test_a_body_beyond_the_limit_is_refused_in_words_and_not_kept(server: Server) -> None:
    before = resident_mib()
    body = b'{"Pod":"' + b"x" * (70 * 2**20) + b'"}'
    answer = await server.say(request("bind", body))
    assert status(answer) == 200
    assert "at most" in json.loads(answer.partition(b"\r\n\r\n")[2])["Error"]
    del body
    assert resident_mib() - before < 3 * 70


@pytest.mark.parametrize(
    ("name", "uid", "words"),
    [
        ("foreign", "uid-foreign", "belongs to scheduler 'default-scheduler'"),
        ("ending", "uid-ending", "is ending"),
        ("nobody", "uid-nobody", "is not known"),
        ("foreign", "uid-other", "has uid uid-foreign"),
    ],
)
async def test_pods_that_are_not_ours_are_refused_with_a_reason(server: Server, name: str, uid: str, words: str) -> None:
    body = {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": "n0"}
    answer = await server.say(request("bind", json.dumps(body).encode()))
    assert words in json.loads(answer.partition(b"\r\n\r\n")[2])["Error"]
    assert server.api.asked == []


async def test_a_forged_decision_takes_nothing_and_binds_nothing(server: Server) -> None:
    """Neither in the arguments of a call nor on a pod that is bound elsewhere, is another pod, or is not bound at all."""
    value = {"v": 1, "uid": "uid-b", "node": "n0", "gpus": [{"uuid": "GPU-n0-0", "mem": 70000, "cores": 100}]}
    forged = {"alloc.mica.dev/c0": json.dumps(value)}
    before = server.world.used("n0")
    body = {"Pod": pod_body("b", annotations=forged, node="n0"), "NodeNames": ["n0"]}
    answer = await server.say(request("filter", json.dumps(body).encode()))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["NodeNames"] == ["n0"]
    server.world.see_pod(pod_body("b", annotations=forged))
    server.world.see_pod(pod_body("c", annotations=forged, node="n0"))
    server.world.see_pod(pod_body("d", uid="uid-b", annotations=forged, node="n1"))
    assert server.world.used("n0") == before
