"""Two engines of vLLM's CPU build with the same tiny weights, and a router in front. Opt-in: `make test-vllm`."""

from __future__ import annotations

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

from .environment import install, make_model

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build/vllm"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Process:
    """An engine or a router, with every process that it started."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    admin: str = ""

    def wait_ready(self, path: str, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                urllib.request.urlopen(self.url + path, timeout=5).close()
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"not ready: {self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL to the engine's server and to its core at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def python() -> Path:
    return install(HOME / "venv")


@pytest.fixture(scope="session")
def model(python: Path) -> Path:
    return make_model(python, HOME / "model")


StartEngine = Callable[..., Process]


@pytest.fixture
def start_engine(python: Path, model: Path, tmp_path: Path) -> Iterator[StartEngine]:
    """Start one engine on a core of its own; it is ready when `wait_ready` says so."""
    started: list[Process] = []

    def start(*flags: str, dtype: str = "float32") -> Process:
        port, core = free_port(), len(started) % (os.cpu_count() or 1)
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(core),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "tiny"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--enforce-eager"]
        command += ["--max-model-len", "1024", "--max-num-seqs", "64", *flags]
        log = tmp_path / f"engine-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        started.append(Process(process, f"http://127.0.0.1:{port}", log))
        return started[-1]

    yield start
    for engine in started:
        if engine.process.poll() is None:
            engine.kill()


@pytest.fixture
def start_router(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a router over vLLM engines that count as alike."""
    started: list[Process] = []

    def start(*engines: Process) -> Process:
        port, admin = free_port(), free_port()
        listed = ", ".join(f"{{url: '{engine.url}', kind: vllm, revision: r1}}" for engine in engines)
        routes = tmp_path / "routes.yaml"
        routes.write_text(f"models: [{{name: tiny, engines: [{listed}], routing: {{policy: round-robin}}}}]")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
        environment |= {"MICA_HOST": "127.0.0.1", "MICA_PORT": str(port), "MICA_ADMIN_PORT": str(admin)}
        environment |= {"MICA_ROUTES": "file", "MICA_ROUTES_FILE": str(routes)}
        log = tmp_path / "router.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "mica_router"], env=environment, stdout=output, stderr=output, start_new_session=True
            )
        started.append(Process(process, f"http://127.0.0.1:{port}", log, f"http://127.0.0.1:{admin}"))
        Process(process, started[-1].admin, log).wait_ready("/readyz", seconds=60)
        return started[-1]

    yield start
    for router in started:
        router.kill()
