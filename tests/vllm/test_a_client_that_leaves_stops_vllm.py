"""A client that leaves stops vLLM within a second, of a stream and of a whole answer: its own counter of tokens stands still."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from .conftest import Process, StartEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
LONGEST = 900


def generated(engine: Process) -> int:
    """Tokens that the engine has made, as it counts them itself."""
    with urllib.request.urlopen(f"{engine.url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(int(float(count)) for count in re.findall(r"^vllm:generation_tokens_total\S* (\S+)$", text, re.MULTILINE))


def ask(engine: Process) -> None:
    """One short answer, to its end."""
    body = json.dumps({"model": "tiny", "prompt": "Hi", "max_tokens": 8, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{engine.url}/v1/completions", data=body, headers={"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=300).close()


def test_the_counter_of_tokens_stands_still(start_engine: StartEngine, start_router: Callable[..., Process]) -> None:
    engine = start_engine()
    engine.wait_ready("/health", seconds=600)
    router = start_router(engine)
    port = urlsplit(router.url).port
    ask(engine)  # an engine that is asked for the first time is slow
    for stream in (True, False):
        before = generated(engine)
        content = {"model": "tiny", "prompt": "Hi", "max_tokens": LONGEST, "ignore_eos": True, "stream": stream}
        body = json.dumps(content).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            deadline = time.monotonic() + 120
            while generated(engine) < before + 5:
                assert time.monotonic() < deadline
        time.sleep(1)
        stopped_at = generated(engine)
        time.sleep(2)
        assert generated(engine) == stopped_at
        assert stopped_at - before < LONGEST, "it had ended before its client left: nothing was shown"
        print(f"stream {stream}: stopped after {stopped_at - before} of {LONGEST} tokens")
