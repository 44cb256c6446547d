"""How long the extender takes to answer, at 5,000 nodes × 8 GPUs with 40,000 running GPU pods.

Three processes on one machine: an API server as far as the extender reads one (``speed_api``), which sends 200 watch events a
second; the extender (``speed_server``); and this one, which asks one question after another over one kept connection, as the
scheduling goroutine of kube-scheduler does. Before every question one pod ends and another takes its card. Wall time is what the
asker sees; server time is what the kernel counted for the server's process from question to answer, watch events included.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from benchmarks._command import CannotMeasure
from benchmarks._report import FOLDER, Anchor, Figure, Goal, at_most
from benchmarks.scheduler.options import Options
from benchmarks.scheduler.speed_world import NODES, arguments, fresh_shape, large_shapes, node_name, small_shapes

_ELSEWHERE: Final = "measured by us in another run on this kind of machine"
HAMI: Final = Anchor(974.0, f"HAMi 2.10, filter p50 at 5,000 nodes, {_ELSEWHERE}")
HAMI_CPU: Final = Anchor(1_600.0, f"HAMi 2.10, CPU of a filter at 5,000 nodes, {_ELSEWHERE}")
HAMI_1000: Final = Anchor(627.0, f"HAMi 2.10, filter p50 at 1,000 nodes and 40,000 pods, {_ELSEWHERE}")
SAMPLE: Final = 500
"""Names that kube-scheduler sends at 5,000 nodes."""
CALLS: Final = 600
WARM_UP: Final = 200
READY_WITHIN_S: Final = 180.0
_PAUSE_S: Final = 0.003
_ANSWER_BYTES: Final = 2**22
"""Room for more than the largest answer."""
_COMPILED: Final = FOLDER / "compiled"
"""Where the servers find their code compiled, as the libraries are in the image."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer: seconds until the asker had it, and seconds of CPU of the server's process."""

    wall: float
    cpu: float


class Server:
    """The extender's process and one kept connection to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, api_port: int) -> None:
        self.pid = process.pid
        self._http = HTTPConnection("127.0.0.1", port)
        self._http.connect()
        # With the kernel's own size the window closes in the middle of one large answer in a hundred, and loopback then waits for
        # a timer of 5 ms that neither side has set.
        self._http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ANSWER_BYTES)
        self._api = HTTPConnection("127.0.0.1", api_port)

    def ask(self, verb: str, body: bytes) -> tuple[Timing, bytes]:
        """One question."""
        cpu, began = self._cpu(), time.perf_counter()
        self._http.request("POST", f"/{verb}", body, {"content-type": "application/json"})
        reply = self._http.getresponse().read()
        wall = time.perf_counter() - began
        return Timing(wall, self._cpu() - cpu), reply

    def tell_api(self, what: str) -> None:
        """``traffic`` or ``change``."""
        self._api.request("POST", f"/{what}")
        self._api.getresponse().read()

    def memory_mib(self, key: str) -> float:
        """``VmRSS`` or ``VmHWM`` of the server."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024
        raise CannotMeasure(f"/proc/{self.pid}/status has no {key}")

    def _cpu(self) -> float:
        """Seconds of CPU of all threads of the server."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def running(kernel: str) -> Iterator[tuple[Server, float]]:
    """The server with everything loaded, and the seconds from its start until it was ready."""
    api_port, port, admin_port = _free_ports()
    children: list[subprocess.Popen[bytes]] = []
    try:
        subprocess.run([sys.executable, "-c", "import benchmarks.scheduler.speed_server"], env=_environment(), check=True)
        children.append(_start("speed_api", str(api_port)))
        _wait("the API server of the benchmark", lambda: _status(api_port, "/apis/mica.dev/v1alpha1/vgpupools?limit=500") == 200)
        began = time.monotonic()
        children.append(_start("speed_server", str(api_port), str(port), str(admin_port), kernel))
        _wait("the extender", lambda: _status(admin_port, "/readyz") == 200)
        yield Server(children[-1], port, api_port), time.monotonic() - began
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGKILL)
            child.wait()


def series(
    server: Server, verb: str, bodies: Callable[[int], bytes], calls: int = CALLS, check: Callable[[Any], bool] = bool
) -> list[Timing]:
    """Ask again and again, with one change of the ledger before each. Raises CannotMeasure for an answer that cannot be right."""
    timings = []
    for number in range(calls):
        body = bodies(number)
        server.tell_api("change")
        time.sleep(_PAUSE_S)
        timing, reply = server.ask(verb, body)
        timings.append(timing)
        if number % 50 == 0 and not check(json.loads(reply)):
            raise CannotMeasure(f"{verb} answered {reply[:200]!r}")
    return timings


def figures(options: Options) -> Sequence[Figure]:
    """All figures of the part, with the C kernel and, for comparison, with numpy."""
    found = []
    with running("auto") as (server, ready_s):
        found += _measure(server, "", CALLS)
        found.append(
            _figure(
                "ready after start",
                ready_s,
                "s",
                "process start to /readyz 200, code compiled before; 40,000 pods in pages",
                at_most(10),
            )
        )
        rss, peak = server.memory_mib("VmRSS"), server.memory_mib("VmHWM")
        found.append(_figure("memory, resident", rss, "MiB", "VmRSS of the process after all calls", at_most(400)))
        found.append(_figure("memory, peak", peak, "MiB", "VmHWM of the process, load included", at_most(400)))
    with running("numpy") as (server, _):
        found += _measure(server, ", numpy", CALLS // 5, goals=False)
    return found


def _measure(server: Server, suffix: str, calls: int, *, goals: bool = True) -> list[Figure]:
    chance = random.Random(7)
    every = [node_name(i) for i in range(NODES)]
    small, large = small_shapes(), large_shapes()
    whole_small, whole_large = [arguments(pod, every) for pod in small], [arguments(pod, every) for pod in large]
    fresh = iter(range(10**6))

    def sample(_: int) -> bytes:
        first = chance.randrange(NODES)
        return arguments(chance.choice(small), (every + every)[first : first + SAMPLE])

    server.tell_api("traffic")
    for bodies in (whole_small, whole_large):
        for body in bodies:
            server.ask("filter", body)
            server.ask("prioritize", body)
    series(server, "filter", sample, WARM_UP)
    spread = _Spread(suffix, goals)
    spread.add("filter 500 names", series(server, "filter", sample, calls, _answered), 2, 5, HAMI_1000)
    spread.add("prioritize 500 names", series(server, "prioritize", sample, calls), None, 5)
    failing = series(server, "filter", lambda _: chance.choice(whole_large), calls, _mostly_failing)
    spread.add("filter 5,000 names, 4,900 failing", failing, 3, 10, HAMI, HAMI_CPU)
    for body in whole_small:
        # Each shape once: the series before brought thousands of changes, and a shape's first question pays for all of them.
        server.ask("prioritize", body)
    warm = series(server, "prioritize", lambda _: chance.choice(whole_small), calls)
    spread.add("prioritize 5,000 names, warm", warm, None, 5)
    never = series(server, "prioritize", lambda _: arguments(fresh_shape(next(fresh)), every), calls // 2)
    spread.add("prioritize 5,000 names, never-seen shape", never, None, 15)
    return spread.figures


class _Spread:
    """Figures of series: median and 99th percentile of wall time, and of the server's CPU."""

    def __init__(self, suffix: str, goals: bool) -> None:
        self.figures: list[Figure] = []
        self._suffix = suffix
        self._goals = goals

    def add(
        self,
        name: str,
        timings: Sequence[Timing],
        p50: float | None,
        p99: float,
        anchor: Anchor | None = None,
        cpu_anchor: Anchor | None = None,
    ) -> None:
        """Add a series; the goals are of wall time in milliseconds, the anchors of the medians of wall time and CPU."""
        how = f"{len(timings)} calls, one ledger change before each, 200 watch events/s"
        for what, values, goals, theirs in (
            ("wall", sorted(t.wall * 1e3 for t in timings), (p50, p99), anchor),
            ("server CPU", sorted(t.cpu * 1e3 for t in timings), (None, None), cpu_anchor),
        ):
            for part, goal, beside in zip((0.5, 0.99), goals, (theirs, None), strict=True):
                full = f"{name}{self._suffix}, {what} p{part * 100:.0f}"
                wanted = at_most(goal) if goal is not None and self._goals else None
                self.figures.append(_figure(full, _at(values, part), "ms", how, wanted, beside))


def _figure(name: str, value: float, unit: str, how: str, goal: Goal | None = None, anchor: Anchor | None = None) -> Figure:
    return Figure(figure=name, value=value, unit=unit, how=how, goal=goal, anchor=anchor)


def _at(ordered: Sequence[float], part: float) -> float:
    """The value that this part of the values does not exceed (nearest rank)."""
    return statistics.median(ordered) if part == 0.5 else ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _answered(answer: Any) -> bool:
    return not answer["Error"] and len(answer["NodeNames"]) > 0


def _mostly_failing(answer: Any) -> bool:
    failing = len(answer["FailedNodes"]) + len(answer["FailedAndUnresolvableNodes"])
    return not answer["Error"] and failing >= 4_900 and failing + len(answer["NodeNames"]) == NODES


def _free_ports() -> tuple[int, int, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports[0], ports[1], ports[2]


def _start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", f"benchmarks.scheduler.{module}", *arguments], env=_environment())


def _environment() -> dict[str, str]:
    """What the servers run in, with their code compiled."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    variables["PYTHONPYCACHEPREFIX"] = str(_COMPILED.resolve())
    return variables


def _status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise CannotMeasure(f"{what} was not ready within {READY_WITHIN_S:.0f} s; its words are above")
        time.sleep(0.05)
