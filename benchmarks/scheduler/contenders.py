"""The schedulers that are compared, each brought up and down on the same box: stock, stock without scoring, and ours."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from benchmarks.scheduler import load
from mica_api import names
from mica_box.child import Child, free_port
from mica_box.running import RunningBox
from mica_box.scheduler_pair import SchedulerPair, scheduler_child
from mica_runtime.kube import ApiError, KubeClient

OURS: Final = "Mica"
STOCK: Final = "stock"
NO_SCORES: Final = "stock without scoring"

_CLIENT: Final = {"qps": 1000, "burst": 2000}
"""As in the chart: with its default of 50 a second every scheduler would wait for its own client."""
_ADMITTED_WITHIN_S: Final = 20.0


class Contender(Protocol):
    """A scheduler under test."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    async def prepare(self, client: KubeClient) -> None:
        """Bring up what must be there before pods are created."""
        ...

    def start(self) -> dict[str, Child]:
        """Start to schedule; the processes whose time counts, by name. The one called kube-scheduler may be stopped
        and started again."""
        ...

    async def stop(self, client: KubeClient) -> None:
        """Take down what ``prepare`` and ``start`` brought up, in the API too."""
        ...

    def end(self) -> None:
        """End what still runs, and nothing else: the box goes away anyway."""
        ...


@dataclass(frozen=True)
class Stock:
    """A stock kube-scheduler without an extender, in a cluster that has never heard of ours."""

    name: str
    child: Child

    async def prepare(self, client: KubeClient) -> None:
        """Nothing is needed."""

    def start(self) -> dict[str, Child]:
        """See Contender."""
        self.child.start()
        return {"kube-scheduler": self.child}

    async def stop(self, client: KubeClient) -> None:
        """See Contender."""
        self.end()

    def end(self) -> None:
        """See Contender."""
        self.child.stop()


@dataclass(frozen=True)
class Ours:
    """Extender and kube-scheduler as the chart configures them, behind the chart's webhooks and policies."""

    pair: SchedulerPair
    name: str = OURS

    async def prepare(self, client: KubeClient) -> None:
        """See Contender."""
        self.pair.start_extender()
        self.pair.guard()
        await _until_admission(client, ours=True)

    def start(self) -> dict[str, Child]:
        """See Contender."""
        self.pair.scheduler.start()
        return {"kube-scheduler": self.pair.scheduler, "extender": self.pair.extender}

    async def stop(self, client: KubeClient) -> None:
        """See Contender."""
        self.pair.scheduler.stop()
        self.pair.unguard()
        await _until_admission(client, ours=False)
        self.pair.extender.stop()

    def end(self) -> None:
        """See Contender."""
        self.pair.stop()


def stock(box: RunningBox, folder: Path) -> Stock:
    """The default profile as it comes."""
    return _stock(box, folder, STOCK, {})


def without_scores(box: RunningBox, folder: Path) -> Stock:
    """The default profile with every score plugin off: what a scheduler can do that only filters."""
    profile = {"schedulerName": "default-scheduler", "plugins": {"score": {"disabled": [{"name": "*"}]}}}
    return _stock(box, folder, NO_SCORES, {"profiles": [profile]})


def _stock(box: RunningBox, folder: Path, name: str, more: Mapping[str, Any]) -> Stock:
    kubeconfig = box.box.plan.pki / "scheduler.kubeconfig"
    config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {**_CLIENT, "kubeconfig": str(kubeconfig)},
        **more,
    }
    slug = name.replace(" ", "-")
    path = folder / f"{slug}.yaml"
    path.write_text(yaml.safe_dump(config))
    return Stock(name, scheduler_child(box, slug, config=path, kubeconfig=kubeconfig, folder=folder, port=free_port()))


async def _until_admission(client: KubeClient, *, ours: bool) -> None:
    """Until the API server's admission is what was last applied: it learns of webhooks and policies a moment later."""
    probe = load.pod("probe", load.WAITING[0], kind="probe", shard=0)
    path = f"/api/v1/namespaces/{load.NAMESPACE}/pods?dryRun=All"
    async with asyncio.timeout(_ADMITTED_WITHIN_S):
        while True:
            try:
                answer = await client.post(path, probe)
            except ApiError:
                answer = {}
            if answer and (names.LABEL_SLICE in answer["metadata"]["labels"]) is ours:
                return
            await asyncio.sleep(0.1)
