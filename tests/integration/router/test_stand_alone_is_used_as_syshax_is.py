"""The stand-alone router as sysHAX's guide uses its conductor: init, config, check-config, run, curl; and the demo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from .conftest import free_port

pytestmark = pytest.mark.timeout(300)
MICA = (sys.executable, "-m", "mica_cli")
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
QUESTION = [{"role": "user", "content": "What does a slice have?"}]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process whose words go to `NAME.log`."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=ENVIRONMENT | variables, stdout=log, stderr=log)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], *, what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def read(url: str) -> str:
    text: str = urllib.request.urlopen(url, timeout=5).read().decode()
    return text


def curl(url: str, body: object) -> str:
    """As the guide writes it."""
    done = subprocess.run(
        ["curl", "-sS", "-N", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", json.dumps(body)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def text_of(stream: str) -> str:
    """The words of an event stream of chat chunks."""
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    assert all("error" not in event for event in events), events[-1]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def test_the_published_guide_works_from_init_to_chat(start: Start, tmp_path: Path) -> None:
    gpu, cpu, port, admin = (free_port() for _ in range(4))
    for name, at, pace in (("gpu", gpu, "1"), ("cpu", cpu, "5")):
        start(name, sys.executable, "-m", "mica_cli.standalone.demo_engine", str(at), pace)
        wait_for(lambda at=at: answers(f"http://127.0.0.1:{at}/health"))
    file = str(tmp_path / "router.yaml")

    def mica(*arguments: str) -> str:
        done = subprocess.run([*MICA, *arguments, "--config", file], env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mica("init")
    for key, value in (
        ("services.gpu.port", str(gpu)),
        ("services.cpu.port", str(cpu)),
        ("services.conductor.port", str(port)),
        ("models.default", "mica-demo"),
        ("models.params.max_tokens", "7"),
        ("monitor.interval", "0.2"),
    ):
        mica("config", key, value)
    assert "mica-demo" in mica("check-config")
    router = start("router", *MICA, "run", "--config", file, "--admin-port", str(admin), MICA_WORKERS="2")
    log = tmp_path / "router.log"
    wait_for(lambda: router.poll() is not None or answers(f"http://127.0.0.1:{admin}/readyz"), what=log.read_text)
    assert f"gpu http://127.0.0.1:{gpu}: ok" in log.read_text()
    assert "performance ratio of the tiers: " in log.read_text()

    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    whole = json.loads(curl(url, {"model": "mica-demo", "messages": QUESTION}))
    assert whole["usage"]["completion_tokens"] == 7
    stream = curl(url, {"messages": QUESTION, "stream": True, "num_decode_tokens": 1})
    assert stream.endswith("data: [DONE]\n\n")
    assert text_of(stream) == whole["choices"][0]["message"]["content"]
    longer = json.loads(curl(url, {"messages": QUESTION, "max_tokens": 9}))
    assert longer["usage"]["completion_tokens"] == 9
    refused = json.loads(curl(f"http://127.0.0.1:{port}/v1/chat/pd_disagg", {"messages": QUESTION, "max_tokens": 9}))
    assert refused["error"]["code"] == "pd_disagg_unsupported"
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=0) as client:
        found = client.chat.completions.create(model="mica-demo", messages=[{"role": "user", "content": "hi"}])
        assert found.usage is not None
        assert found.usage.completion_tokens == 7

    view = f"http://127.0.0.1:{admin}/metrics.json"
    wait_for(lambda: json.loads(read(view))["cpu"]["engines"] == 1)
    shown = json.loads(read(view))
    assert set(shown["gpu"]) >= {"cache_usage", "num_running", "num_waiting", "num_swapped", "prompt_throughput"}
    assert shown["system"]["performance_ratio"] > 0
    assert "mica_router_performance_ratio " in read(f"http://127.0.0.1:{admin}/metrics")
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0


def test_no_engine_ends_the_start_in_words(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "router.yaml"
    file.write_text(f"{{services: {{gpu: {{port: {port}}}, cpu: []}}, models: {{default: m}}}}")
    done = subprocess.run(
        [*MICA, "run", "--config", str(file)], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert f"gpu http://127.0.0.1:{port}: does not answer" in done.stdout
    assert "no engine serves m" in done.stderr


def running(pids: list[int]) -> list[int]:
    """Those that have not ended."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def test_a_killed_engine_of_the_demo_costs_no_word_and_nothing_is_left_behind(start: Start, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    demo = start("demo", *MICA, "run", "--demo", "--port", str(port), "--admin-port", str(admin))
    log = tmp_path / "demo.log"
    wait_for(lambda: demo.poll() is not None or "Ctrl-C" in log.read_text(), what=log.read_text)
    assert demo.poll() is None, log.read_text()
    assert "answered by the gpu engine" in log.read_text()
    killed = re.search(r"kill -9 (\d+)", log.read_text())
    assert killed is not None

    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    body = {"messages": QUESTION, "temperature": 0, "max_tokens": 400, "stream": True}
    undisturbed = text_of(curl(url, body))
    answer = urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(body).encode()), timeout=60)
    seen = answer.readline() + answer.readline() + answer.readline() + answer.readline() + answer.readline()
    os.kill(int(killed[1]), signal.SIGKILL)
    stream = (seen + answer.read()).decode()
    assert text_of(stream) == undisturbed
    assert stream.endswith("data: [DONE]\n\n")
    assert 'mica_router_resumes_total{model="mica-demo"} 1.0' in read(f"http://127.0.0.1:{admin}/metrics")

    assert json.loads(read(f"http://127.0.0.1:{admin}/metrics.json"))["cpu"]["engines"] == 1

    wait_for(lambda: "is back as process" in log.read_text(), what=log.read_text)
    children = children_of(demo.pid)
    assert len(children) == 3
    demo.kill()
    wait_for(lambda: not running(children))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_when_it_is_told_to(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    port, admin = free_port(), free_port()
    demo = start("demo", *MICA, "run", "--demo", "--port", str(port), "--admin-port", str(admin))
    log = tmp_path / "demo.log"
    wait_for(lambda: demo.poll() is not None or "Ctrl-C" in log.read_text(), what=log.read_text)
    children = children_of(demo.pid)
    demo.send_signal(number)
    assert demo.wait(60) == 0
    assert not running(children)
    assert "Traceback" not in log.read_text()


def test_the_demo_ends_with_its_router_and_says_so(start: Start, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    demo = start("demo", *MICA, "run", "--demo", "--port", str(port), "--admin-port", str(admin), MICA_WORKERS="none")
    assert demo.wait(90) == 1
    assert "the router has ended" in (tmp_path / "demo.log").read_text()
