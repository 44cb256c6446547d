"""vLLM's own `bench serve` against the router, in front of a scripted engine that speaks vLLM's dialect: no request fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import ROOT, Process, free_port

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

REQUESTS = 6
# The `vllm` command wants a distribution of that name, which the CPU build is not. One process: importing it takes half a minute.
CLIENT = """
import argparse, sys
from vllm.benchmarks.serve import add_cli_args, main

url, tokenizer, folder, requests = sys.argv[1:]
parser = argparse.ArgumentParser()
add_cli_args(parser)
for backend, path in (("vllm", "/v1/completions"), ("openai-chat", "/v1/chat/completions")):
    options = f"--backend {backend} --endpoint {path} --base-url {url} --model tiny --tokenizer {tokenizer} "
    options += f"--dataset-name random --random-input-len 16 --random-output-len 8 --num-prompts {requests} --max-concurrency 2 "
    options += f"--ready-check-timeout-sec 60 --save-result --result-filename {folder}/{backend}.json"
    main(parser.parse_args(options.split()))
"""


@pytest.fixture
def scripted_engine(tmp_path: Path) -> Iterator[Process]:
    port = free_port()
    command = [sys.executable, "-m", "tests.unit.router.engines", "--dialect", "vllm", "--name", "tiny", "--port", str(port)]
    log = tmp_path / "scripted.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    engine = Process(process, f"http://127.0.0.1:{port}", log)
    engine.wait_ready("/health", seconds=60)
    yield engine
    engine.kill()


def test_every_request_of_the_benchmark_is_answered(
    python: Path, model: Path, scripted_engine: Process, start_router: Callable[..., Process], tmp_path: Path
) -> None:
    router = start_router(scripted_engine)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [python, "-c", CLIENT, router.url, model, tmp_path, str(REQUESTS)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for backend in ("vllm", "openai-chat"):
        result = json.loads((tmp_path / f"{backend}.json").read_text())
        assert (result["completed"], result.get("failed", 0)) == (REQUESTS, 0)
        assert result["total_output_tokens"] > 0
