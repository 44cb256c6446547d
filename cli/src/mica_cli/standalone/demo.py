"""`mica run --demo`: two small engines and the router before them, with nothing but this package.

The engines compute the same function of token ids (`demo_engine`), so a stream whose engine is killed goes on at the other one,
word for word. Everything ends with this process, also when it is killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import httpx
import typer

from mica_cli.router import router_environment
from mica_cli.standalone.children import end_children, start_child
from mica_cli.standalone.commands import fail
from mica_cli.standalone.demo_engine import NAME
from mica_cli.standalone.start import ROUTER, private_file

PACES: Final = {"gpu": 8, "cpu": 25}
"""Milliseconds per token of the engines that play the two tiers."""

_QUESTION: Final = "What does Mica do?"
_START_SECONDS: Final = 60.0
_RESTART_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1
_GENERATED: Final = re.compile(r"^vllm:generation_tokens_total (\d+)", re.MULTILINE)


@dataclass(slots=True)
class Part:
    """One engine, or the router."""

    name: str
    url: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]
    back_at: float = 0.0


def demo_routes(urls: Mapping[str, str]) -> dict[str, Any]:
    """The routes file for engines by tier."""
    engines = [{"url": url, "tier": tier, "kind": "vllm", "version": "demo", "numerics": "demo"} for tier, url in urls.items()]
    cpu = {"mode": "overflow", "maxOutputTokens": 0}
    return {"models": [{"name": NAME, "default": True, "engines": engines, "cpu": cpu}]}


def run_demo(*, host: str, port: int | None, admin_port: int | None) -> None:
    """Until Ctrl-C or SIGTERM. Ends the program in words when a part cannot run."""
    signal.signal(signal.SIGTERM, _leave)
    parts: list[Part] = []
    try:
        for tier, pace in PACES.items():
            parts.append(_engine(tier, pace))
        parts.append(_router(parts, host=host, port=port or free_port(8000), admin_port=admin_port or free_port(8080)))
        with httpx.Client(trust_env=False, timeout=30.0) as client:
            _show(parts, client)
        while True:
            _look_after(parts)
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        typer.echo("")
    finally:
        end_children([part.process for part in parts], seconds=3.0)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _engine(tier: str, pace: int) -> Part:
    port = free_port(0)
    command = (sys.executable, "-m", "mica_cli.standalone.demo_engine", str(port), str(pace))

    def start() -> subprocess.Popen[bytes]:
        return start_child(command, environment=os.environ)

    return Part(f"{tier} engine", f"http://127.0.0.1:{port}", start, start())


def _router(engines: list[Part], *, host: str, port: int, admin_port: int) -> Part:
    routes = private_file(demo_routes({engine.name.split()[0]: engine.url for engine in engines}))
    environment = router_environment(
        {"MICA_LOG_LEVEL": "error", "MICA_PROBE_INTERVAL": "1", "MICA_DRAIN_TIMEOUT": "1"} | os.environ,
        routes=routes,
        host=host,
        port=port,
        admin_port=admin_port,
    )

    def start() -> subprocess.Popen[bytes]:
        return start_child(ROUTER, environment=environment, files=[int(Path(routes).name)])

    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return Part("router", f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}", start, start())


def _show(parts: list[Part], client: httpx.Client) -> None:
    """Ask one chat, and say what can be tried."""
    gpu, _, router = parts
    _await(parts, client)
    question = {"messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 40, "temperature": 0}
    answer = client.post(f"{router.url}/v1/chat/completions", json=question).json()
    said = next((engine for engine in parts[:2] if _generated(engine, client)), gpu)
    body = json.dumps(question | {"stream": True, "max_tokens": 2000})
    typer.echo(f"asked: {_QUESTION}")
    typer.echo(f"answered by the {said.name} at {said.url}:{answer['choices'][0]['message']['content']}")
    typer.echo(f"\nTry a stream, and kill the {gpu.name} while it talks: the answer goes on at the other one, word for word.")
    typer.echo(f"  curl -N {router.url}/v1/chat/completions -d '{body}'")
    typer.echo(f"  kill -9 {gpu.process.pid}")
    typer.echo("Ctrl-C ends everything.")
    sys.stdout.flush()


def _await(parts: list[Part], client: httpx.Client) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not all(_answers(part, client) for part in parts):
        _look_after(parts)
        if time.monotonic() > deadline:
            silent = ", ".join(part.name for part in parts if not _answers(part, client))
            fail(f"{silent}: no answer after {_START_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)


def _answers(part: Part, client: httpx.Client) -> bool:
    """The router sends `/health` to an engine, so its answer is that of both."""
    with suppress(httpx.HTTPError):
        return client.get(f"{part.url}/health", timeout=2.0).status_code == 200
    return False


def _generated(engine: Part, client: httpx.Client) -> bool:
    found = _GENERATED.search(client.get(f"{engine.url}/metrics").text)
    return found is not None and int(found[1]) > 0


def _look_after(parts: list[Part]) -> None:
    """An engine that was killed comes back after a while; a part that gave up ends the demo."""
    for part in parts:
        code = part.process.poll()
        if code is None:
            continue
        if part.name == "router" or code >= 0:
            fail(f"the {part.name} has ended with code {code}; what it said is above")
        now = time.monotonic()
        if not part.back_at:
            part.back_at = now + _RESTART_SECONDS
            typer.echo(f"the {part.name} was killed; another one is started in {_RESTART_SECONDS:g} s")
        elif now >= part.back_at:
            part.process, part.back_at = part.start(), 0.0
            typer.echo(f"the {part.name} is back as process {part.process.pid}")
        sys.stdout.flush()


def free_port(wanted: int) -> int:
    """`wanted` if it is free, else any that is."""
    for port in (wanted, 0):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no port is free on 127.0.0.1")
