"""llama.cpp with the demo's model on a simulated GPU, asked through the router: text, memory, launches, pace."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from mica_router.core.engine_metrics import Reading, learn, parse_metrics
from mica_router.core.rates import Rates

from .conftest import StartRouter, free_port

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "hack/demo_engine"
SHIM = ROOT / "build/shim"
GREETING = "Hello from your tiny llama!"


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """An environment with the engine's locked packages, made once per lock file."""
    lock = FOLDER / "requirements.lock"
    home = ROOT / "build/venvs" / f"demo-engine-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = home / "bin/python"
    if not (home / "complete").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(lock)]
        subprocess.run(install, check=True)
        (home / "complete").touch()
    return python


@dataclass
class Engine:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def card(self) -> dict[str, Any]:
        """What the simulated card really did."""
        tool = subprocess.run([SHIM / "tools/sim-state"], env=self.environment, capture_output=True, check=True)
        card: dict[str, Any] = json.loads(tool.stdout)["gpus"][0]
        return card


StartEngine = Callable[..., Engine]


@pytest.fixture
def start_engine(engine_python: Path, tmp_path: Path) -> Iterator[StartEngine]:
    """Start the engine on a simulated card of 2 GiB; `gpu=False` hides the driver."""
    sim = tmp_path / "sim"
    sim.mkdir()
    uuid = "GPU-5a1e0000-0000-4000-8000-000000000000"
    (sim / "config").write_text(f"version=1\ngpus=1\ngpu.0.uuid={uuid}\ngpu.0.memory={2 << 30}\n")
    started: list[Engine] = []

    def start(*flags: str, gpu: bool = True) -> Engine:
        environment = {**os.environ, "MICA_SIM_DIR": str(sim)}
        environment["LD_LIBRARY_PATH"] = str(SHIM / "sim") if gpu else ""
        port = free_port()
        log = tmp_path / f"engine-{len(started)}.log"
        command = [str(engine_python), str(FOLDER / "engine.py"), "--host", "127.0.0.1", "--port", str(port), *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        started.append(Engine(process, port, log, environment))
        return started[-1]

    yield start
    for engine in started:
        engine.process.kill()
        engine.process.wait()


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], temperature=0, **options)


def test_the_engine_answers_through_the_router_and_its_work_shows_on_the_card(
    start_router: StartRouter, start_engine: StartEngine
) -> None:
    engine = start_engine("--kernel-us", "2000")
    engine.wait_ready()
    assert engine.card()["memory_used"] == (1024 + 512) << 20
    router = start_router(f"models: [{{name: tiny, endpoints: ['{engine.url}']}}]")
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
        whole = chat(client, max_tokens=5)
        assert whole.choices[0].message.content == GREETING
        assert engine.card()["processes"][0]["kernels"] == 5
        pieces = [chunk.choices[0].delta.content or "" for chunk in chat(client, max_tokens=5, stream=True)]
        assert "".join(pieces) == GREETING
        assert len([piece for piece in pieces if piece]) == 5
        assert engine.card()["processes"][0]["kernels"] == 10
        for _ in range(20):  # a streamed answer ends llama.cpp's keep-alive; the next request must not notice
            assert "".join(c.choices[0].delta.content or "" for c in chat(client, max_tokens=5, stream=True)) == GREETING


def test_llamacpps_own_metrics_are_understood(start_engine: StartEngine) -> None:
    """As the operator starts the engines of a CPU tier."""
    engine = start_engine("--metrics", "--threads", "2", "--kernel-us", "2000")
    engine.wait_ready()

    def read() -> Reading:
        with urllib.request.urlopen(f"{engine.url}/metrics", timeout=5) as answer:
            return parse_metrics(answer.read())

    before = read()
    assert before.running == before.waiting == 0
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        chat(client, max_tokens=20, extra_body={"ignore_eos": True})
    rates = Rates()
    learn(rates, read(), before)
    token = rates.decode.at(1)
    assert token is not None and token > 0
    assert rates.prefill.at(10) is not None


def test_a_token_takes_the_time_of_its_kernel(start_engine: StartEngine) -> None:
    engine = start_engine("--kernel-us", "20000")
    engine.wait_ready()
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        assert len([c for c in chat(client, max_tokens=40, stream=True) if c.choices[0].delta.content]) == 40
    assert engine.card()["busy_ns"] == 40 * 20_000_000


def test_a_client_that_leaves_ends_the_generation(start_router: StartRouter, start_engine: StartEngine) -> None:
    engine = start_engine("--kernel-us", "20000")
    engine.wait_ready()
    router = start_router(f"models: [{{name: tiny, endpoints: ['{engine.url}']}}]")
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none") as client:
        stream = chat(client, max_tokens=3000, stream=True, extra_body={"ignore_eos": True})
        for _ in range(5):
            next(stream)
        stream.close()
    deadline = time.monotonic() + 30
    before, after = -1, engine.card()["processes"][0]["kernels"]
    while before != after and time.monotonic() < deadline:
        time.sleep(0.5)
        before, after = after, engine.card()["processes"][0]["kernels"]
    assert before == after < 1000


def test_without_a_driver_the_engine_runs_on_the_cpu_alone(start_engine: StartEngine) -> None:
    engine = start_engine(gpu=False)
    engine.wait_ready()
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        assert chat(client, max_tokens=5).choices[0].message.content == GREETING
    assert "nothing is mirrored" in engine.log.read_text()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--weights-mib", "1900"], 1, "cannot allocate 512 MiB for the KV cache: CUDA_ERROR_OUT_OF_MEMORY"),
        (["--model", "/nonexistent.gguf"], 1, "there is no model file /nonexistent.gguf"),
        (["--model", str(FOLDER / "README.md")], 1, "llama.cpp did not start"),
        (["--kernel-us", "0"], 2, "must be at least 1"),
        (["--unknown"], 2, "unrecognized arguments: --unknown"),
    ],
)
def test_what_cannot_work_ends_the_engine_with_words(start_engine: StartEngine, flags: list[str], code: int, words: str) -> None:
    engine = start_engine(*flags)
    assert engine.process.wait(90) == code
    assert words in engine.log.read_text()


def test_sigterm_ends_the_engine_well_and_frees_the_card(start_engine: StartEngine) -> None:
    engine = start_engine()
    engine.wait_ready()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(10) == 0
    assert engine.card()["memory_used"] == 0
