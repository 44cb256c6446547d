"""The routers that are measured: how each is installed, configured for two engines, and started on one core.

Ours runs with what it has for production on: keys, metrics, retries, deadlines, bookkeeping for resuming. The others run with
what their documentation gives for one process and static engines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from benchmarks._command import CannotMeasure
from benchmarks.router.engine import MODEL
from benchmarks.router.interpreter import PYTHON, environment_for

KEY: Final = "sk-bench-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contender runs: its own port and admin port, the engines' ports, a folder of its own."""

    port: int
    admin: int
    engines: tuple[int, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a contender, and what answers once it is ready."""

    words: Sequence[str]
    environment: Mapping[str, str]
    ready: str = "/v1/models"


@dataclass(frozen=True, slots=True)
class Contender:
    """A router. ``requirements`` are installed into an environment of its own, outside the repository."""

    name: str
    command: Callable[[Site], Command]
    requirements: tuple[str, ...] = ()


def environment(requirements: Sequence[str]) -> Path:
    """Folder of the programs of a virtual environment with these packages, on the Python of all routers, made at first use."""
    cache = Path(os.environ.get("MICA_CACHE") or Path.home() / ".cache" / "mica")
    home = cache / "bench" / sha256(" ".join((PYTHON, *requirements)).encode()).hexdigest()[:12]
    if not (home / "complete").exists():
        print(f"… installing {' '.join(requirements)}", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        # Without pip of its own: distributions package that apart, and ours can install for another Python.
        subprocess.run([PYTHON, "-m", "venv", "--without-pip", home], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "--disable-pip-version-check"]
        try:
            subprocess.run([*pip, "install", "-q", *requirements], check=True)
        except subprocess.CalledProcessError as error:
            raise CannotMeasure(f"{' '.join(requirements)} cannot be installed; leave it out with --peers") from error
        (home / "complete").touch()
    return home / "bin"


def _mica(site: Site, *, workers: int = 1) -> Command:
    routes = site.folder / "routes.json"
    engines = [{"url": f"http://127.0.0.1:{port}", "kind": "vllm"} for port in site.engines]
    model = {"name": MODEL, "engines": engines, "apiKeys": [sha256(KEY.encode()).hexdigest()]}
    routes.write_text(json.dumps({"models": [model]}))
    kept = {name: value for name, value in environment_for().items() if not name.startswith("MICA_")}
    ours = {"ROUTES": "file", "ROUTES_FILE": routes, "HOST": "127.0.0.1", "PORT": site.port, "ADMIN_PORT": site.admin}
    ours["WORKERS"] = workers
    return Command([PYTHON, "-m", "mica_router"], {**kept, **{f"MICA_{name}": str(value) for name, value in ours.items()}})


def _nginx(site: Site) -> Command:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise CannotMeasure(
            "nginx is not installed: install your distribution's package nginx-light, or leave it out with --peers"
        )
    servers = "".join(f"server 127.0.0.1:{port};" for port in site.engines)
    config = site.folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {site.folder}/nginx.pid; error_log {site.folder}/error.log;\n"
        "events { worker_connections 24000; }\n"
        f"http {{ access_log off; client_body_temp_path {site.folder}; proxy_temp_path {site.folder};\n"
        f"fastcgi_temp_path {site.folder}; uwsgi_temp_path {site.folder}; scgi_temp_path {site.folder};\n"
        f"upstream engines {{ {servers} keepalive 512; }}\n"
        f"server {{ listen 127.0.0.1:{site.port}; keepalive_requests 1000000000;\n"
        'location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; '
        "proxy_buffering off; proxy_read_timeout 600s; } } }\n"
    )
    return Command([program, "-c", str(config), "-e", str(site.folder / "error.log"), "-p", str(site.folder)], os.environ)


def _vllm_router(site: Site) -> Command:
    program = environment(VLLM_ROUTER.requirements) / "vllm-router"
    return Command(
        [str(program), *_rust_options(site)],
        os.environ,
    )


def _sglang_router(site: Site) -> Command:
    program = environment(SGLANG_ROUTER.requirements) / "smg"
    return Command([str(program), "launch", *_rust_options(site)], os.environ)


def _rust_options(site: Site) -> list[str]:
    """Options that both of the Rust routers have."""
    urls = [f"http://127.0.0.1:{port}" for port in site.engines]
    options = {"--host": "127.0.0.1", "--port": site.port, "--policy": "round_robin", "--prometheus-port": site.admin}
    return [*(str(word) for option in options.items() for word in option), "--log-level", "error", "--worker-urls", *urls]


def _litellm(site: Site) -> Command:
    engines = [
        {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none"} for port in site.engines
    ]
    config = site.folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": engine} for engine in engines]}))
    program = environment(LITELLM.requirements) / "litellm"
    words = [program, "--config", config, "--host", "127.0.0.1", "--port", site.port, "--num_workers", 1]
    quiet = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return Command(list(map(str, words)), {**os.environ, **quiet})


MICA: Final = Contender("Mica", _mica)
MICA_WORKERS: Final = Contender("Mica-workers", partial(_mica, workers=2))
NGINX: Final = Contender("nginx", _nginx)
VLLM_ROUTER: Final = Contender("vllm-router", _vllm_router, ("vllm-router==0.1.17",))
SGLANG_ROUTER: Final = Contender("sglang-router", _sglang_router, ("sglang-router==0.3.2",))
LITELLM: Final = Contender("LiteLLM", _litellm, ("litellm[proxy]==1.106.2",))
PEERS: Final = {peer.name: peer for peer in (NGINX, VLLM_ROUTER, SGLANG_ROUTER, LITELLM)}
