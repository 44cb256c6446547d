"""What other routers were measured at, cell by cell: two engines, one of which fails, before a first-byte deadline of 1 s.

Engines are processes, so that one can be killed (SIGKILL) or hang (SIGSTOP: its connections stay open, and new ones are taken).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from .conftest import RouterProcess, StartRouter, free_port
from .small_engine import SmallEngine, serving

pytestmark = pytest.mark.timeout(300)
MODEL = "mica-demo"
TOKENS = 1000
"""Of a long stream: seconds, of which the first tenth is over when its engine is killed."""
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass
class Engine:
    """The demo's engine, which speaks vLLM's dialect; two of them say the same to the same prompt."""

    process: subprocess.Popen[bytes]
    url: str

    def generated(self) -> int:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            found = re.search(rb"^vllm:generation_tokens_total (\d+)", answer.read(), re.MULTILINE)
        assert found is not None
        return int(found[1])


@pytest.fixture
def engine() -> Iterator[Callable[..., Engine]]:
    """Start an engine with so many milliseconds per token."""
    started: list[subprocess.Popen[bytes]] = []

    def start(pace: int = 1) -> Engine:
        port = free_port()
        process = subprocess.Popen([sys.executable, "-m", "mica_cli.standalone.demo_engine", str(port), str(pace)])
        started.append(process)
        found = Engine(process, f"http://127.0.0.1:{port}")
        eventually(lambda: is_there(port), seconds=60)
        return found

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_there(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def refusing() -> Iterator[Callable[[int], str]]:
    """Start an engine that is healthy and answers every request with a status."""
    with contextlib.ExitStack() as engines:

        def start(status: int) -> str:
            class Refusing(SmallEngine):
                def do_GET(self) -> None:
                    self.say()

                def do_POST(self) -> None:
                    self.body()
                    self.say(status=status)

            return f"http://127.0.0.1:{engines.enter_context(serving(Refusing))}"

        yield start


def eventually(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def before(start_router: StartRouter, *urls: str) -> RouterProcess:
    listed = ", ".join(f"{{url: '{url}', kind: vllm, numerics: same}}" for url in urls)
    return start_router(f"models: [{{name: {MODEL}, engines: [{listed}]}}]", MICA_FIRST_BYTE_TIMEOUT="1")


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Of a stream."""
        events = [json.loads(line[6:]) for line in self.body.splitlines() if line.startswith(b"data: {")]
        choices = [choice for event in events for choice in event.get("choices", [])]
        return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


def ask(router: RouterProcess, path: str = CHAT, *, seconds: float = 30, **options: Any) -> Answer:
    prompt: dict[str, Any] = {"prompt": "Hi"} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "Hi"}]}
    body = json.dumps({"model": MODEL, "max_tokens": 5, "temperature": 0} | prompt | options).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(router.url + path, data=body), timeout=seconds) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), dict(error.headers))


def ask_at_once(router: RouterProcess, count: int, **options: Any) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(router, **options), range(count)))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_engine_within_a_second(
    start_router: StartRouter, engine: Callable[..., Engine], stream: bool
) -> None:
    only = engine(20)
    router = before(start_router, only.url)
    body = json.dumps({"model": MODEL, "messages": [], "max_tokens": 2000, "temperature": 0, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", router.port)) as client:
        client.sendall(b"POST %s HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body))
        eventually(lambda: only.generated() > 5, seconds=30)
    time.sleep(1)
    stopped_at = only.generated()
    time.sleep(0.5)
    assert only.generated() == stopped_at < 500


@pytest.mark.parametrize("status", [500, 503])
def test_an_engine_that_answers_with_errors_fails_no_request(
    start_router: StartRouter, engine: Callable[..., Engine], refusing: Callable[[int], str], status: int
) -> None:
    router = before(start_router, refusing(status), engine().url)
    assert [ask(router).status for _ in range(20)] == [200] * 20


def test_an_engine_that_is_killed_fails_no_request(start_router: StartRouter, engine: Callable[..., Engine]) -> None:
    first, second = engine(), engine()
    router = before(start_router, first.url, second.url)
    assert {answer.status for answer in ask_at_once(router, 8)} == {200}
    first.process.kill()
    assert [ask(router).status for _ in range(20)] == [200] * 20
    assert {answer.status for answer in ask_at_once(router, 8)} == {200}


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_hangs_fails_no_request(start_router: StartRouter, engine: Callable[..., Engine], stream: bool) -> None:
    first, second = engine(), engine()
    router = before(start_router, first.url, second.url)
    assert {answer.status for answer in ask_at_once(router, 8)} == {200}
    first.process.send_signal(signal.SIGSTOP)
    assert [answer.status for answer in ask_at_once(router, 14, stream=stream)] == [200] * 14
    assert [ask(router, stream=stream).status for _ in range(14)] == [200] * 14


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_streams_outlive_an_engine_that_is_killed_or_end_with_an_error_event(
    start_router: StartRouter, engine: Callable[..., Engine], path: str
) -> None:
    engines = [engine(5), engine(5)]
    router = before(start_router, *(one.url for one in engines))
    whole = ask(router, path, stream=True, max_tokens=TOKENS)
    before_them = engines[0].generated()
    with ThreadPoolExecutor(24) as pool:
        asked = [
            pool.submit(
                ask, router, path, stream=True, max_tokens=TOKENS, **({"n": 1, "seed": 1} if number % 2 else {"logit_bias": {}})
            )
            for number in range(16)
        ]
        others = [pool.submit(ask, router, path, stream=True, max_tokens=TOKENS, presence_penalty=0.5) for _ in range(8)]
        eventually(lambda: engines[0].generated() > before_them + 800, seconds=60)
        os.kill(engines[0].process.pid, signal.SIGKILL)
        answers, ineligible = [one.result() for one in asked], [one.result() for one in others]
    assert [answer.text for answer in answers] == [whole.text] * 16
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in (*answers, *ineligible))
    assert sum(b'"code":"engine_lost"' in answer.body.replace(b" ", b"") for answer in ineligible) >= 1
    told = router.admin("/metrics")
    assert f'mica_router_resume_refusals_total{{model="{MODEL}",reason="penalty"}}' in told
    assert f'mica_router_resumes_total{{model="{MODEL}"}}' in told


def test_when_all_engines_are_dead_clients_are_told_when_to_come_back(
    start_router: StartRouter, engine: Callable[..., Engine]
) -> None:
    engines = [engine(), engine()]
    router = before(start_router, *(one.url for one in engines))
    assert ask(router).status == 200
    for one in engines:
        one.process.kill()
    for stream in (False, True):
        answer = ask(router, stream=stream)
        assert (answer.status, answer.headers["Content-Type"]) == (503, "application/json")
        assert int(answer.headers["Retry-After"]) >= 1
        assert json.loads(answer.body)["error"]["code"] == "engine_unreachable"
    with pytest.raises(urllib.error.HTTPError, match="503"):
        router.admin("/readyz")
