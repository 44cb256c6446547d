"""The faults of the harness between the extender and a real API server, with the real kube-scheduler; the history is judged."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mica_box.kwok import add_kwok_nodes
from mica_box.plan import Mode
from mica_box.testing import RunningBox, running_box

from .conftest import Installation, Pods, Process, eventually
from .faulty_wire import REQUEST_FAULTS, WATCH_FAULTS, Card, FaultyWire, History

SLICE = {"mica.dev/vgpu-number": 1, "mica.dev/vgpu-cores": 20, "mica.dev/vgpu-memory-1Gi": 20}
NODES, GPUS = 3, 2
PER_CARD = 4
ROOM = NODES * GPUS * PER_CARD
BATCHES = 6
MORE = 60
CARD = Card(80 * 1024, 10)
QUIET_S = 60.0


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[RunningBox]:
    """A box of its own: processes are killed and nodes filled here."""
    with running_box("mica-it-bind", mode=Mode.APISERVER_ONLY) as box:
        yield box


@pytest.fixture(scope="module")
def wired(own_cluster: RunningBox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, FaultyWire]]:
    installation = Installation(own_cluster, tmp_path_factory.mktemp("mica"))
    config = yaml.safe_load(installation.kubeconfig.read_text())
    [server] = [entry["cluster"] for entry in config["clusters"]]
    authority = base64.b64decode(server["certificate-authority-data"]).decode()
    wire = FaultyWire(server["server"], authority, seed=7)
    wire.start()
    server.pop("certificate-authority-data")
    server["server"] = f"http://127.0.0.1:{wire.port}"
    through = installation.file("kubeconfig-through-the-wire", yaml.safe_dump(config))
    plain = installation.extender
    environment = {**plain.env, "MICA_KUBECONFIG": str(through)}
    installation.extender = Process(plain.name, plain.words, environment, plain.log)
    try:
        add_kwok_nodes(own_cluster.box, NODES, gpus=GPUS)
        installation.start()
        yield installation, wire
    finally:
        installation.stop()
        wire.stop()


@pytest.fixture
def namespace(wired: tuple[Installation, FaultyWire]) -> Iterator[Pods]:
    name = f"it-{uuid.uuid4().hex[:8]}"
    cluster = wired[0].cluster
    cluster.kubectl("create", "namespace", name)
    try:
        yield Pods(cluster, name)
    finally:
        cluster.kubectl("delete", "pods", "--all", "-n", name, "--grace-period=0", "--force", "--wait=true")


@contextmanager
def recorded(pods: Pods, folder: Path) -> Iterator[Callable[[], list[tuple[str, dict[str, Any]]]]]:
    """Every event of the namespace's pods, as the API server tells them to a client that is not disturbed."""
    path = f"/api/v1/namespaces/{pods.namespace}/pods?watch=1"
    words = [str(pods.cluster.box.binary("kubectl")), "get", "--raw", path]
    with tempfile.NamedTemporaryFile(dir=folder) as log:
        watch = subprocess.Popen(words, env=pods.cluster.environment, stdout=log)

        def events() -> list[tuple[str, dict[str, Any]]]:
            lines = os.pread(log.fileno(), 2**27, 0).split(b"\n")[:-1]
            return [(event["type"], event["object"]) for event in map(json.loads, lines)]

        try:
            yield events
        finally:
            watch.kill()
            watch.wait()


def bound(pods: Pods) -> int:
    items = pods.cluster.get("pods", "-n", pods.namespace)["items"]
    return sum(bool(pod["spec"].get("nodeName")) for pod in items)


def gauge(installation: Installation, name: str) -> float:
    lines = installation.admin("/metrics").splitlines()
    return float(next((line.split()[1] for line in lines if line.startswith(f"{name} ")), "-1"))


def settled(installation: Installation, pods: Pods, count: int) -> bool:
    """All bound, nothing reserved any more, and the ledger counts what the API server has."""
    return (
        bound(pods) == count
        and gauge(installation, "mica_extender_ledger_reservations") == 0
        and gauge(installation, "mica_extender_ledger_pods") == count
    )


def struck(wire: FaultyWire) -> bool:
    """Whether what happened to binds and watches is enough for this test to mean anything."""
    binds = {fault for kind, fault in wire.hits.copy() if kind == "binding"}
    watches = {fault for kind, fault in wire.hits.copy() if kind == "watch"}
    return len(binds & set(REQUEST_FAULTS)) >= 4 and watches >= set(WATCH_FAULTS)


@pytest.mark.timeout(600)
def test_no_card_is_given_twice_and_every_pod_that_fits_is_bound(
    wired: tuple[Installation, FaultyWire], namespace: Pods, tmp_path: Path
) -> None:
    """Faults in every third request while pods come and go and the extender is killed; then peace, and all that fits is bound."""
    installation, wire = wired
    chance = random.Random(3)
    with recorded(namespace, tmp_path) as events:
        wire.faults = 0.35
        made: list[str] = []
        for number in range(BATCHES):
            fresh = [f"p{number}-{index}" for index in range(6)]
            namespace.create(*(namespace.body(name, SLICE) for name in fresh))
            made += fresh
            time.sleep(1.0)
            if number in (1, 3):
                installation.extender.stop(kill=True)
                installation.extender.start()
                installation.wait_ready()
                eventually(lambda: bound(namespace) > 0, within=90)
            if number >= 2:
                namespace.delete(made.pop(chance.randrange(len(made))))
        for number in range(MORE):
            if struck(wire):
                break
            namespace.delete(made.pop(chance.randrange(len(made))))
            namespace.create(namespace.body(f"more-{number}", SLICE))
            made.append(f"more-{number}")
            time.sleep(1.0)
        assert struck(wire), f"faults have to strike for this test to mean anything: {dict(wire.hits)}"
        wire.faults = 0.0
        count = min(ROOM, len(made))
        eventually(lambda: settled(installation, namespace, count), within=QUIET_S, what=f"{count} pods are bound")
        seen = events()
    print(f"\n{len(seen)} versions, {len(made)} pods, faults: {dict(wire.hits)}")
    assert History(CARD).problems(seen) == []
    assert "Traceback" not in installation.extender.text()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_api_server_that_is_away_for_a_minute_is_survived(
    wired: tuple[Installation, FaultyWire], namespace: Pods, tmp_path: Path
) -> None:
    installation, wire = wired
    with recorded(namespace, tmp_path) as events:
        namespace.create(namespace.body("before", SLICE))
        namespace.bound("before", within=40)
        wire.cut = True
        for index in range(12):
            namespace.create(namespace.body(f"meanwhile-{index}", SLICE))
            time.sleep(5.0)
        assert bound(namespace) == 1, "without the API server nothing is decided"
        wire.cut = False
        eventually(lambda: settled(installation, namespace, 13), within=60, what="all are bound afterwards")
        seen = events()
    assert History(CARD).problems(seen) == []
    assert installation.extender.alive
