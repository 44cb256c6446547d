"""Several worker processes behind one port: numbers add up, counts are shared, a killed worker leaves nothing and comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import openai
import pytest

from .conftest import RouterProcess, StartRouter

pytestmark = pytest.mark.timeout(300)


def routes_to(*urls: str) -> str:
    return f"models:\n  - {{name: chat, endpoints: {json.dumps(urls)}}}\n"


def ask(router: RouterProcess) -> str | None:
    """A new connection each time: workers are chosen by connection."""
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="unused", max_retries=0) as client:
        answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
        return answer.choices[0].message.content


def children(process: int) -> list[int]:
    found = []
    for child in map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()):
        with suppress(OSError):  # gone since it was listed
            if b"workers.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def eventually(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def counted(router: RouterProcess) -> float:
    lines = router.admin("/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith('mica_router_requests_total{code="200"'))


def test_numbers_of_all_workers_add_up_and_a_killed_one_comes_back(start_router: StartRouter, openai_engine: str) -> None:
    router = start_router(routes_to(openai_engine), MICA_WORKERS="3", MICA_MAX_BODY_BYTES="1048576")
    eventually(lambda: len(children(router.process.pid)) == 3)
    for _ in range(20):
        assert ask(router)
    eventually(lambda: counted(router) == 20)
    victim = children(router.process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(children(router.process.pid)) == 3 and victim not in children(router.process.pid))
    eventually(lambda: router.log.read_text().count("another one is started") == 1)
    for _ in range(20):
        assert ask(router)
    eventually(lambda: counted(router) == 40)
    # Of another report than the one that was counted: workers tell their numbers four times a second, also in mid-request.
    nothing = {"models": {"chat": {"in_flight": 0, "queued": 0, "oldest_wait": 0.0}}}
    eventually(lambda: json.loads(router.admin("/demand")) == nothing)
    assert router.terminate() < 5
    assert router.process.returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_drain_waits_for_what_is_under_way_and_tells_its_demand(start_router: StartRouter, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as engine:
        engine.settimeout(30)
        url = f"http://127.0.0.1:{engine.getsockname()[1]}"
        router = start_router(routes_to(url), MICA_WORKERS=workers, MICA_PROBE_INTERVAL="0", MICA_MAX_BODY_BYTES="1048576")
        clients = [socket.create_connection(("127.0.0.1", router.port)) for _ in range(6)]
        body = b'{"model":"chat"}'
        engines = []
        for client in clients:
            client.settimeout(30)
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            accepted, _ = engine.accept()
            accepted.recv(65536)
            engines.append(accepted)
        eventually(lambda: json.loads(router.admin("/demand"))["models"]["chat"]["in_flight"] == 6)
        router.process.send_signal(signal.SIGTERM)
        with pytest.raises(OSError):
            while True:
                socket.create_connection(("127.0.0.1", router.port), timeout=5).close()
                time.sleep(0.05)
        for left, (accepted, client) in zip(range(6, 0, -1), zip(engines, clients, strict=True), strict=True):
            eventually(lambda left=left: json.loads(router.admin("/demand"))["models"]["chat"]["in_flight"] == left)
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert client.recv(65536).endswith(b"ok")
            accepted.close()
            client.close()
        assert router.process.wait(30) == 0
        assert router.log.read_text().count('"drained"') == 1


def clients_of(worker: int, port: int) -> int:
    """How many connections to this port the worker has accepted."""
    rows = [line.split() for line in Path(f"/proc/{worker}/net/tcp").read_text().splitlines()[1:]]
    accepted = {f"socket:[{row[9]}]" for row in rows if row[3] == "01" and int(row[1].partition(":")[2], 16) == port}
    found = 0
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(OSError):  # closed since it was listed
            found += str(entry.readlink()) in accepted
    return found


def test_an_engine_gets_no_more_than_its_bound_from_all_workers_together(start_router: StartRouter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as engine:
        engine.settimeout(30)
        bounded = f'{{url: "http://127.0.0.1:{engine.getsockname()[1]}", maxInFlight: 2}}'
        routes = f"models:\n  - {{name: chat, engines: [{bounded}]}}\n"
        router = start_router(routes, MICA_WORKERS="2", MICA_PROBE_INTERVAL="0", MICA_MAX_BODY_BYTES="1048576")
        eventually(lambda: len(children(router.process.pid)) == 2)
        workers = children(router.process.pid)
        clients = []

        def both_have_clients() -> bool:
            clients.append(socket.create_connection(("127.0.0.1", router.port)))
            return len(clients) >= 12 and all(clients_of(worker, router.port) > 2 for worker in workers)

        eventually(both_have_clients)
        count = len(clients)
        body = b'{"model":"chat"}'
        for client in clients:
            client.settimeout(30)
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        at_work: list[socket.socket] = []
        for left in range(count, 0, -1):
            while len(at_work) < min(2, left):
                at_work.append(accept_request(engine))
            waiting = {"in_flight": min(2, left), "queued": max(0, left - 2)}
            eventually(lambda waiting=waiting: demand(router) == waiting)
            done = at_work.pop(0)
            done.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            done.close()
        assert [client.recv(65536)[-2:] for client in clients] == [b"ok"] * count
        for client in clients:
            client.close()


def accept_request(engine: socket.socket) -> socket.socket:
    accepted, _ = engine.accept()
    assert accepted.recv(65536)
    return accepted


def demand(router: RouterProcess) -> dict[str, float]:
    told = json.loads(router.admin("/demand"))["models"]["chat"]
    return {name: told[name] for name in ("in_flight", "queued")}


def test_keys_of_requests_are_never_logged(start_router: StartRouter, openai_engine: str) -> None:
    router = start_router(routes_to(openai_engine), MICA_ACCESS_LOG_SAMPLE="1", MICA_LOG_LEVEL="debug")
    request = urllib.request.Request(
        f"{router.url}/v1/chat/completions",
        data=b'{"model": "chat", "messages": []}',
        headers={"Authorization": "Bearer sk-very-secret", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    eventually(lambda: '"path": "/v1/chat/completions"' in router.log.read_text())
    assert "secret" not in router.log.read_text()
