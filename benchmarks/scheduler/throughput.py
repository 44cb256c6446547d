"""Pods per second through a real API server and a real kube-scheduler: ours against the stock profile, in one run.

A cluster of 1,000 nodes × 8 GPUs with 5,000 running pods exists in the API only. Each contender in turn binds one pod to see that
it works, starts anew when 3,000 pods wait, and is measured from the first of them bound to the last; then they are deleted. They
alternate, so that whatever else the machine does hits all of them; what counts is the ratio. Then, with ours: forty pods
on one node, and how soon a pod that was refused is bound after room was made.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks._command import CannotMeasure
from benchmarks._report import Anchor, Figure, at_least, at_most
from benchmarks.scheduler import load, rig
from benchmarks.scheduler.contenders import NO_SCORES, OURS, STOCK, Contender, Ours, stock, without_scores
from benchmarks.scheduler.load import NAMESPACE, Scale
from benchmarks.scheduler.options import Options
from mica_api import names
from mica_api.allocation import decode_pod_allocation
from mica_box.child import Child
from mica_box.plan import Mode
from mica_box.progress import say
from mica_box.running import RunningBox
from mica_box.scheduler_pair import SchedulerPair
from mica_box.testing import running_box
from mica_runtime.kube import KubeClient

BOX: Final = "mica-bench"
RELEASE: Final = "mica-system"
REPEATS: Final = 3
REQUEUES: Final = 5
VERBS: Final = ("filter", "prioritize", "bind")
EXTENDERS_CALLS: Final = ("POST pods/binding", "GET pods", "PATCH deviceclasses", "POST pods/eviction")
"""What only the extender asks for on a quiet box. Events, conditions and Leases are kube-scheduler's, whichever it is."""
_HAMI: Final = Anchor(8.3, "HAMi 2.10 at 1,000 nodes and 8,000 pods, its best settings (benchmarks/README.md)")
_HAMI_CALLS: Final = Anchor(9, "HAMi 2.10, from its source")
_HAMI_BURST: Final = Anchor(900, "HAMi issue 1367: 15 to 30 minutes")
_HAMI_REQUEUE: Final = Anchor(300, "kube-scheduler's flush, which HAMi waits for")


@dataclass(frozen=True, slots=True)
class Run:
    """One contender once: pods bound between the first and the last, and what that took."""

    contender: str
    pods: int
    seconds: float
    cpu: Mapping[str, float]
    requests: Counter[str]
    verbs: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Pods per second. The first pod started the clock, so it does not count."""
        return (self.pods - 1) / self.seconds

    def cpu_ms(self, *processes: str) -> float:
        """Processor milliseconds per pod of these processes."""
        return 1000 * sum(self.cpu.get(name, 0.0) for name in processes) / self.pods

    def calls(self, *kinds: str) -> float:
        """API requests of these kinds per pod."""
        return sum(self.requests[kind] for kind in kinds) / self.pods


def figures(options: Options, *, scale: Scale | None = None, repeats: int = REPEATS) -> Sequence[Figure]:
    """Bring up the box, measure, take it down, also when interrupted. Raises CannotMeasure when pods stay unbound."""
    scale = scale or Scale()
    with running_box(BOX, mode=Mode.APISERVER_ONLY) as box, tempfile.TemporaryDirectory(prefix="mica-bench-") as folder:
        return uvloop.run(_measure(box, Path(folder), scale, repeats))


async def _measure(box: RunningBox, folder: Path, scale: Scale, repeats: int) -> Sequence[Figure]:
    # A takeover from an earlier leader waits for that one's writes. Here the only extender outlives its kube-schedulers.
    pair = SchedulerPair(box, folder, namespace=RELEASE, settings={"MICA_REQUIRE_LEASE": "false"})
    pair.install()
    box.kubectl("create", "namespace", NAMESPACE)
    box.kubectl("wait", "--for=create", "serviceaccount/default", "-n", NAMESPACE, "--timeout=30s")
    rig.quiet(box)
    ours = Ours(pair)
    contenders: tuple[Contender, ...] = (stock(box, folder), ours, without_scores(box, folder))
    async with await KubeClient.connect(Path(box.kubeconfig)) as client:
        bench = _Bench(box, client, scale)
        try:
            await rig.populate(client, scale)
            runs = [await bench.run(contender) for _ in range(repeats) for contender in contenders]
            return [*summary(runs), *await bench.one_node(ours)]
        finally:
            for contender in contenders:
                contender.end()


class _Bench:
    """What one measurement after another needs."""

    def __init__(self, box: RunningBox, client: KubeClient, scale: Scale) -> None:
        self._client = client
        self._scale = scale
        self._daemons = {name: rig.daemon_pid(box, name) for name in ("kube-apiserver", "etcd")}

    async def run(self, contender: Contender) -> Run:
        """Let a contender bind all waiting pods once."""
        client, count = self._client, self._scale.waiting
        await contender.prepare(client)
        await self._warm_up(children := contender.start())
        children["kube-scheduler"].stop()
        await rig.create_pods(client, f"{contender.name}: {count} waiting pods", load.waiting(self._scale))
        requests, verbs = await rig.api_requests(client), _verbs(contender)
        bound = rig.Bound(count)
        async with rig.watching(client, "waiting", bound):
            children = contender.start()
            clock = rig.CpuClock({**self._daemons, **{name: child.pid for name, child in children.items()}})
            bound.on_first = clock.restart
            await bound.all(stalled=lambda: _logs(children))
            cpu = clock.seconds()
        await asyncio.sleep(1.0)  # events are sent after the fact
        made = await rig.api_requests(client) - requests
        spent = {verb: seconds - verbs[verb] for verb, seconds in _verbs(contender).items()}
        await self._check_cards()
        await contender.stop(client)
        await rig.delete_pods(client, "waiting")
        await rig.delete_pods(client, "warm-up")
        run = Run(contender.name, count, bound.seconds, cpu, made, spent)
        say(f"✓ {contender.name}: {run.rate:.0f} pods/s, {_each_ms(run)} CPU-ms a pod")
        return run

    async def _warm_up(self, children: Mapping[str, Child]) -> None:
        """Until one pod is bound: caches are full then, and whoever leads has taken over."""
        bound = rig.Bound(1)
        async with rig.watching(self._client, "warm-up", bound):
            await self._client.post(f"/api/v1/namespaces/{NAMESPACE}/pods", load.warm_up())
            await bound.all(stalled=lambda: _logs(children))

    async def one_node(self, ours: Ours) -> Sequence[Figure]:
        """Forty pods at once on the one node that may run them, and then one at a time as room is made."""
        await ours.prepare(self._client)
        await self._warm_up(ours.start())
        burst = await self._burst()
        requeues = [await self._requeue(index) for index in range(REQUEUES)]
        await self._check_cards()
        return (
            Figure(
                f"{load.BURST_PODS} pods at once that only one node may run, all bound",
                burst,
                "s",
                "from the first POST of a pod, through admission, to the last bound, which fills the node exactly",
                anchor=_HAMI_BURST,
                goal=at_most(5),
            ),
            Figure(
                "a refused pod bound after room was made, worst",
                max(requeues),
                "s",
                f"{REQUEUES} times: the node's agent lets go of the slice of a deleted pod; until the waiting pod is bound",
                anchor=_HAMI_REQUEUE,
                goal=at_most(1),
            ),
        )

    async def _burst(self) -> float:
        bound = rig.Bound(load.BURST_PODS)
        async with rig.watching(self._client, "burst", bound):
            began = time.monotonic()
            await rig.create_pods(self._client, f"{load.BURST_PODS} pods on one node", load.burst())
            await bound.all(stalled=lambda: "the burst does not fit its node")
        return max(bound.at.values()) - began

    async def _requeue(self, index: int) -> float:
        """One pod of the full node is deleted, but its agent still holds the slice; a new pod waits for it."""
        client, pods = self._client, f"/api/v1/namespaces/{NAMESPACE}/pods"
        leaving = await client.get(f"{pods}/burst-{index:02d}")
        await rig.patch_slices(client, load.BURST_NODE, [_held(leaving)])
        await client.delete(f"{pods}/burst-{index:02d}")
        late = load.burst_pod(f"late-{index:02d}")
        late["metadata"]["labels"][load.LABEL] = "burst"
        made = await client.post(pods, late)
        await _refused(client, f"{pods}/{made['metadata']['name']}")
        began = time.monotonic()
        await rig.patch_slices(client, load.BURST_NODE, [])
        while not (await client.get(f"{pods}/{made['metadata']['name']}"))["spec"].get("nodeName"):
            if time.monotonic() - began > 30:
                raise CannotMeasure("a pod that was refused was not bound within 30 s after room was made for it")
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    async def _check_cards(self) -> None:
        """No card may be promised more than it has. Raises CannotMeasure: the speed of a wrong scheduler is no figure."""
        taken: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for pod in (await self._client.get(f"/api/v1/namespaces/{NAMESPACE}/pods", deadline=120.0))["items"]:
            found = decode_pod_allocation(pod["metadata"].get("annotations") or {}, 1)
            for share in found[0].shares if found else ():
                card = taken[share.uuid]
                card[:] = card[0] + share.memory_mib, card[1] + share.cores, card[2] + 1
        broken = {uuid: amounts for uuid, amounts in taken.items() if amounts[0] > 81920 or amounts[1] > 100 or amounts[2] > 10}
        if broken:
            raise CannotMeasure(f"{len(broken)} cards are over-committed, for example {next(iter(broken.items()))}")


def summary(runs: Sequence[Run]) -> list[Figure]:
    """Figures of all runs: medians over the repeats, ratios taken within each repeat before their median."""
    ours, theirs, bare = ([run for run in runs if run.contender == name] for name in (OURS, STOCK, NO_SCORES))
    ratios = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    how = f"median of {len(ours)} runs that alternate; {ours[0].pods} waiting pods; first bound to last bound"
    here = "stock profile, measured here"
    both = ("kube-scheduler", "extender")
    api = ("kube-apiserver", "etcd")
    found = [
        Figure("pods bound, Mica", _median(run.rate for run in ours), "pods/s", how, anchor=_HAMI),
        Figure("pods bound, stock profile without extender", _median(run.rate for run in theirs), "pods/s", how),
        Figure("pods bound, stock without score plugins", _median(run.rate for run in bare), "pods/s", how),
        Figure(
            "Mica's pods/s over the stock profile's",
            _median(ratios),
            "×",
            f"median of the ratios of {len(ratios)} pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}",
            goal=at_least(1.0),
        ),
        Figure(
            "CPU of scheduler and extender",
            _median(run.cpu_ms(*both) for run in ours),
            "ms/pod",
            "user and system time of both processes between first and last bound",
            anchor=Anchor(_median(run.cpu_ms(*both) for run in theirs), here),
        ),
        Figure("CPU of the extender alone", _median(run.cpu_ms("extender") for run in ours), "ms/pod", "part of the above"),
        Figure(
            "CPU of API server and etcd",
            _median(run.cpu_ms(*api) for run in ours),
            "ms/pod",
            "with Mica's policies; the same time",
            anchor=Anchor(_median(run.cpu_ms(*api) for run in theirs), here),
        ),
        Figure(
            "API requests of the extender",
            _median(run.calls(*EXTENDERS_CALLS) for run in ours),
            "per pod",
            "Bindings, reads of pods, pokes and evictions, counted by the API server",
            anchor=_HAMI_CALLS,
            goal=at_most(1.05),
        ),
    ]
    for verb in VERBS:
        value = _median(1000 * run.verbs[verb] / run.pods for run in ours)
        found.append(Figure(f"{verb} in the extender", value, "ms/pod", "wall time in the verb, from its own metrics"))
    return found


def _logs(children: Mapping[str, Child]) -> str:
    return "\n".join(f"the end of the log of {name}:\n{child.tail()}" for name, child in children.items())


def _median(values: Any) -> float:
    return float(statistics.median(values))


def _each_ms(run: Run) -> str:
    return ", ".join(f"{name} {run.cpu_ms(name):.2f}" for name in run.cpu)


def _verbs(contender: Contender) -> dict[str, float]:
    """Seconds that the extender has spent in its verbs so far; empty for a contender without one."""
    if not isinstance(contender, Ours):
        return {}
    _, text = contender.pair.admin("/metrics")
    found = {verb: re.search(rf"^mica_extender_{verb}_seconds_sum (\S+)$", text, re.MULTILINE) for verb in VERBS}
    missing = [verb for verb, match in found.items() if match is None]
    if missing:
        raise CannotMeasure(f"the extender's metrics do not have mica_extender_{missing[0]}_seconds")
    return {verb: float(match[1]) for verb, match in found.items() if match}


def _held(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The slices of a pod as its node's agent lists them."""
    [decision] = decode_pod_allocation(pod["metadata"]["annotations"], 1) or ()
    gpus = [{"uuid": share.uuid, "memoryMiB": share.memory_mib, "cores": share.cores} for share in decision.shares]
    meta = pod["metadata"]
    return {"podUID": meta["uid"], "namespace": meta["namespace"], "pod": meta["name"], "container": "main", "gpus": gpus}


async def _refused(client: KubeClient, path: str) -> None:
    """Until the scheduler has said that the pod fits nowhere."""
    for _ in range(600):
        conditions = (await client.get(path)).get("status", {}).get("conditions", [])
        if any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions):
            await asyncio.sleep(1.0)  # its own condition makes kube-scheduler try once more; that try is over by then
            return
        await asyncio.sleep(0.05)
    raise CannotMeasure(f"{names.SCHEDULER_NAME} did not refuse a pod for which there was no room")
