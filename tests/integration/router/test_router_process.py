"""The router as a process: routes from a file, the official client in front, signals and bad settings."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

from .conftest import TOKENS, RouterProcess, StartRouter, free_port

# Most of the time is the start of processes, which a busy machine makes long.
pytestmark = pytest.mark.timeout(300)


def routes_to(url: str, *, model: str = "chat") -> str:
    return f"models:\n  - {{name: {model}, endpoints: ['{url}']}}\n"


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


def test_the_official_client_works_whole_and_streaming(start_router: StartRouter, openai_engine: str) -> None:
    router = start_router(routes_to(openai_engine))
    with client_of(router.url) as client:
        assert [model.id for model in client.models.list()] == ["chat"]
        assert client.models.retrieve("chat").id == "chat"
        answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "".join(TOKENS)
        stream = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}], stream=True)
        assert [chunk.choices[0].delta.content for chunk in stream] == TOKENS
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
        assert refused.value.code == "model_not_found"
    with client_of(f"{router.url}/models/default/chat") as client:
        answer = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "".join(TOKENS)


def test_admin_says_what_happened(start_router: StartRouter, openai_engine: str) -> None:
    router = start_router(routes_to(openai_engine))
    with client_of(router.url) as client:
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
    metrics = router.admin("/metrics")
    assert 'mica_router_requests_total{code="200",model="chat"} 1.0' in metrics
    assert 'mica_router_time_to_first_byte_seconds_count{model="chat"} 1.0' in metrics
    assert json.loads(router.admin("/demand")) == {"models": {"chat": {"in_flight": 0, "queued": 0, "oldest_wait": 0.0}}}
    assert router.admin("/livez") == "ok"
    logged = [json.loads(line) for line in router.log.read_text().splitlines()]
    assert all({"ts", "level", "msg"} <= line.keys() for line in logged)


def test_a_changed_routes_file_is_used_and_a_bad_one_is_not(
    start_router: StartRouter, openai_engine: str, tmp_path: Path
) -> None:
    router = start_router(routes_to(openai_engine))
    path = tmp_path / "routes.yaml"

    def names_become(expected: list[str]) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with client_of(router.url) as client:
                if [model.id for model in client.models.list()] == expected:
                    return True
            time.sleep(0.1)
        return False

    path.write_text(routes_to(openai_engine, model="renamed"))
    assert names_become(["renamed"])
    path.write_text("models: [{nam: x}]")
    deadline = time.monotonic() + 10
    while "the old ones stay" not in router.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "models.0.nam" in router.log.read_text()
    assert names_become(["renamed"])


def test_sigterm_ends_the_process_when_the_drain_is_over_even_while_streaming(start_router: StartRouter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_engine:
        url = f"http://127.0.0.1:{silent_engine.getsockname()[1]}"
        router = start_router(routes_to(url), MICA_DRAIN_TIMEOUT="1", MICA_PROBE_INTERVAL="0")
        with socket.create_connection(("127.0.0.1", router.port)) as client:
            body = b'{"model":"chat"}'
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            silent_engine.settimeout(10)
            engine_side, _ = silent_engine.accept()
            with engine_side:
                engine_side.recv(65536)
                assert router.terminate() < 4.0
                assert router.process.returncode == 0
                assert engine_side.recv(1) == b""


def test_sigterm_ends_a_process_with_idle_clients(start_router: StartRouter, openai_engine: str) -> None:
    router = start_router(routes_to(openai_engine))
    with socket.create_connection(("127.0.0.1", router.port)):
        assert router.terminate() < 2.0
    assert router.process.returncode == 0


@pytest.mark.parametrize(
    ("routes", "settings", "words"),
    [
        (None, {}, "no cluster to read routes from"),
        (None, {"MICA_KUBECONFIG": "/nonexistent/kubeconfig"}, "/nonexistent/kubeconfig"),
        (None, {"MICA_ROUTES": "file"}, "needs MICA_ROUTES_FILE"),
        (None, {"MICA_ROUTES": "file", "MICA_ROUTES_FILE": "/nonexistent/routes.yaml"}, "/nonexistent/routes.yaml"),
        ("models: []", {"MICA_PROT": "1"}, "MICA_PROT"),
        ("models: []", {"MICA_HEAD_TIMEOUT": "-1"}, "MICA_HEAD_TIMEOUT"),
        ("models: []", {"MICA_MAX_BUFFERED_BYTES": "2048"}, "MICA_MAX_BUFFERED_BYTES must hold one request"),
        ("models: [{name: a, endpoints: ['ftp://x']}]", {}, "models.0.endpoints.0"),
    ],
)
def test_what_cannot_work_ends_the_start_with_words(
    start_router: StartRouter, routes: str | None, settings: dict[str, str], words: str
) -> None:
    router = start_router(routes, ready=False, **settings)
    assert router.process.wait(90) == 2
    assert words in router.log.read_text()
    assert "Traceback" not in router.log.read_text()


def test_a_busy_port_ends_the_start(start_router: StartRouter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        router = start_router("models: []", ready=False, MICA_PORT=str(port))
        assert router.process.wait(90) == 2
    assert "MICA_PORT: cannot listen" in router.log.read_text()
    assert "in use" in router.log.read_text()


def test_a_router_without_routes_is_ready_and_lists_nothing(start_router: StartRouter) -> None:
    router = start_router("models: []")
    with urllib.request.urlopen(f"{router.url}/v1/models", timeout=5) as answer:
        assert json.load(answer) == {"object": "list", "data": []}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{router.url}/", timeout=5)
    refused.value.close()
    assert refused.value.code == 404


def test_mica_run_starts_a_router_that_ends_on_sigterm(openai_engine: str, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text(routes_to(openai_engine))
    port, admin_port = free_port(), free_port()
    ports = ["--port", str(port), "--admin-port", str(admin_port)]
    log = tmp_path / "mica-run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mica_cli", "run", "--routes", str(routes), *ports], stdout=output, stderr=output
        )
    router = RouterProcess(process, port, admin_port, log)
    try:
        router.wait_ready()
        with client_of(router.url) as client:
            assert [model.id for model in client.models.list()] == ["chat"]
        assert router.terminate() < 2.0
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
