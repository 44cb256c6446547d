"""Router processes as users start them, in front of a small engine that speaks OpenAI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .small_engine import SmallEngine, serving

TOKENS = ["Hel", "lo, ", "wörld", "!"]


class OpenAiEngine(SmallEngine):
    """Answers every chat with the same tokens, whole or as a chunked event stream."""

    def do_GET(self) -> None:
        """The router's probes."""
        self.say(status=200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        request = json.loads(self.body())
        if request.get("stream"):
            self._stream(request["model"])
            return
        message = {"role": "assistant", "content": "".join(TOKENS)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
        head = {"id": "c1", "object": "chat.completion", "created": 1, "model": request["model"]}
        self.say(json.dumps({**head, "choices": [choice], "usage": usage}).encode())

    def _stream(self, model: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}
        for token in TOKENS:
            delta = {"index": 0, "delta": {"content": token}, "finish_reason": None}
            self._event(json.dumps({**head, "choices": [delta]}))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()


StartEngine = Callable[..., int]


@pytest.fixture
def start_openai_engine() -> Iterator[StartEngine]:
    """Start an engine on an address, with `tls` behind it; returns its port."""
    with contextlib.ExitStack() as engines:
        yield lambda host, *, tls=None: engines.enter_context(serving(OpenAiEngine, host, tls=tls))


@pytest.fixture
def openai_engine(start_openai_engine: StartEngine) -> str:
    """URL of an engine on this host."""
    return f"http://127.0.0.1:{start_openai_engine('127.0.0.1')}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RouterProcess:
    """One running router."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def admin(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.admin("/readyz")
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def terminate(self) -> float:
        """Seconds from SIGTERM to the end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        return time.monotonic() - started


StartRouter = Callable[..., RouterProcess]


@pytest.fixture
def start_router(tmp_path: Path) -> Iterator[StartRouter]:
    """Start a router over a routes file; `ready=False` does not wait for it."""
    started: list[RouterProcess] = []

    def start(routes: str | None, *, ready: bool = True, **settings: str) -> RouterProcess:
        port, admin_port = free_port(), free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
        environment |= {"MICA_HOST": "127.0.0.1", "MICA_PORT": str(port), "MICA_ADMIN_PORT": str(admin_port)}
        if routes is not None:
            path = tmp_path / "routes.yaml"
            path.write_text(routes)
            environment |= {"MICA_ROUTES": "file", "MICA_ROUTES_FILE": str(path)}
        log = tmp_path / f"router-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "mica_router"], env=environment | settings, stdout=output, stderr=output
            )
        router = RouterProcess(process, port, admin_port, log)
        started.append(router)
        if ready:
            router.wait_ready()
        return router

    yield start
    for router in started:
        if router.process.poll() is None:
            router.process.kill()
        router.process.wait()
