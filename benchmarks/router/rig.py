"""One bench: two pretended engines, one router at a time on a core of its own, and the load. Used by every part."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._command import CannotMeasure
from benchmarks.router.contenders import KEY, Contender, Site
from benchmarks.router.counter import counting, may_count
from benchmarks.router.processes import ROUTER_CORE, Running, free_port, module, other_core, running, wait_for


@dataclass(frozen=True, slots=True)
class Load:
    """What the load saw and what the router used meanwhile: CPU seconds and instructions, the kernel's on its behalf among them
    (0 without a router, and where the kernel does not let us count).
    """

    requests: int
    events: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    instructions: int


class Rig:
    """The engines that run, and everything that is needed to put a router before them."""

    def __init__(self, engines: tuple[int, ...], folder: Path) -> None:
        self.engines = engines
        self._folder = folder

    @contextlib.contextmanager
    def router(self, contender: Contender) -> Iterator[tuple[str, Running]]:
        """The contender ready to answer: its URL and its process."""
        folder = self._folder / contender.name
        folder.mkdir(exist_ok=True)
        site = Site(port=free_port(), admin=free_port(), engines=self.engines, folder=folder)
        command = contender.command(site)
        log = folder / "log"
        with running(command.words, core=ROUTER_CORE, log=log, environment=command.environment) as process:
            url = f"http://127.0.0.1:{site.port}"
            wait_for(f"{url}{command.ready}", who=contender.name, log=log, headers={"authorization": f"Bearer {KEY}"})
            yield url, process


@contextlib.contextmanager
def rig(folder: Path, *, engines: int = 2) -> Iterator[Rig]:
    """Engines on the load's core, until the block ends."""
    with contextlib.ExitStack() as stack:
        ports = tuple(free_port() for _ in range(engines))
        for port in ports:
            log = folder / f"engine-{port}.log"
            stack.enter_context(running(module("benchmarks.router.engine", port), core=other_core(), log=log))
            wait_for(f"http://127.0.0.1:{port}/health", who="the pretended engine", log=log, headers={})
        yield Rig(ports, folder)


def load(url: str, kind: str, *, connections: int, seconds: float, router: Running | None = None) -> Load:
    """Run the load to its end. Raises CannotMeasure when any request failed."""
    before = router.cpu() if router else 0.0
    words = module("benchmarks.router.loader", url, kind, connections, seconds, KEY)
    with counting(router.tasks() if router and may_count() else ()) as counted:
        done = subprocess.run(["taskset", "-c", str(other_core()), *words], capture_output=True, text=True, timeout=seconds + 120)
        instructions = counted()
    cpu = (router.cpu() if router else 0.0) - before
    if done.returncode != 0:
        raise CannotMeasure(f"the load failed: {done.stderr[-2000:]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if seen["errors"] or not seen["requests"]:
        raise CannotMeasure(f"{seen['errors']} of {seen['errors'] + seen['requests']} requests failed: {seen['first_error']}")
    return Load(seen["requests"], seen["events"], seen["seconds"], seen["p50"], seen["p99"], cpu, instructions)
