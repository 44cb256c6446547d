"""Ten thousand connections at once, three times: the router serves meanwhile, and keeps nothing of them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import RouterProcess, StartRouter

pytestmark = pytest.mark.timeout(900)
CLIENTS = 10_000

# Opens connections, says so, and closes them when its input ends: a process of its own, for the limit of descriptors. Every
# third one has sent half a request, every third one an answered one, and the rest nothing.
CROWD = """
import socket, sys
crowd = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
whole = b"GET /v1/models HTTP/1.1\\r\\nHost: r\\r\\n\\r\\n"
for connection in crowd[::3]:
    connection.sendall(whole[:-2])
for connection in crowd[1::3]:
    connection.sendall(whole)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """For this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def connections(router: RouterProcess) -> float:
    name = "mica_router_client_connections "
    return float(next(line.removeprefix(name) for line in router.admin("/metrics").splitlines() if line.startswith(name)))


def resident(router: RouterProcess) -> int:
    """KiB."""
    return int(Path(f"/proc/{router.process.pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def descriptors(router: RouterProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{router.process.pid}/fd").iterdir())


def is_served(router: RouterProcess) -> bool:
    body = json.dumps({"model": "chat", "messages": []}).encode()
    with urllib.request.urlopen(f"{router.url}/v1/chat/completions", data=body, timeout=30) as answer:
        return bool(answer.status == 200)


def test_ten_thousand_clients_come_and_go(many_descriptors: None, start_router: StartRouter, openai_engine: str) -> None:
    router = start_router(
        f"models:\n  - {{name: chat, endpoints: ['{openai_engine}']}}\n", MICA_HEAD_TIMEOUT="600", MICA_PROBE_INTERVAL="0"
    )
    assert is_served(router)
    before, fresh, kept, full = descriptors(router), resident(router), [], []
    for _ in range(3):
        command = [sys.executable, "-c", CROWD, str(router.port), str(CLIENTS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"open\n"
            assert connections(router) >= CLIENTS
            assert is_served(router)
            full.append(resident(router))
            crowd.stdin.close()
        eventually(lambda: connections(router) <= 1)
        kept.append(resident(router))
    print(f"resident KiB: fresh {fresh}, with {CLIENTS} clients {full}, without them {kept}")
    assert descriptors(router) <= before + 4
    # The first crowd fills what Python keeps for the next one.
    assert max(full[1:]) < full[0] * 1.05
    assert max(kept[1:]) < kept[0] * 1.05
    assert full[0] - fresh < CLIENTS * 8
