"""The operator as a process with the chart's own rights, in a box of its own: it acts on objects of everybody."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import yaml

from mica_box import kwok
from mica_box.plan import Mode
from mica_box.simulated import advertised, cards
from mica_box.testing import RunningBox, running_box
from mica_generate.files import CHART, REPOSITORY

Body = dict[str, Any]
NAMESPACE = "mica-system"
KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "CustomResourceDefinition", "Service")


def eventually(check: Callable[[], Any], *, within: float = 30.0) -> Any:
    """The first truthy result of ``check``."""
    deadline = time.monotonic() + within
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {within} s; last: {result!r}"
        time.sleep(0.2)
    return result


@dataclass
class Operator:
    """The process, which may be ended and started again."""

    kubeconfig: Path
    port: int
    log: Path
    router_port: int
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until ready. One that never gets ready is ended."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MICA_")},
            "MICA_KUBECONFIG": str(self.kubeconfig),
            "MICA_ROUTER_SERVICE": f"{NAMESPACE}/mica-router",
            "MICA_ROUTER_ADMIN_PORT": str(self.router_port),
            "MICA_ENGINE_IMAGES": '{"llamacpp": "localhost/engine:1"}',
            "MICA_ADMIN_HOST": "127.0.0.1",
            "MICA_ADMIN_PORT": str(self.port),
        }
        with self.log.open("ab") as log:
            self.child = subprocess.Popen([sys.executable, "-m", "mica_operator"], env=environment, stdout=log, stderr=log)
        try:
            eventually(self._ready)
        except BaseException:
            self.kill()
            raise

    @property
    def running(self) -> bool:
        """Whether there is a process, ready or not."""
        return self.child is not None and self.child.poll() is None

    def kill(self) -> None:
        """SIGKILL, if it is there at all."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None

    def stop(self) -> int:
        """SIGTERM, and the exit code; fails where it does not end long before the kubelet's 30 seconds are over."""
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(timeout=10)
        finally:
            self.kill()

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def total(self, beginning: str) -> float:
        """Sum of all series whose names begin so."""
        return sum(float(line.rpartition(" ")[2]) for line in self.metrics().splitlines() if line.startswith(beginning))

    def _ready(self) -> bool:
        assert self.child is not None
        assert self.child.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


@pytest.fixture(scope="session")
def op_box() -> Iterator[RunningBox]:
    """A cluster with one fake node that runs everything and has two cards: 14 slices, fewer than one container may ask for."""
    with running_box("mica-it-op", mode=Mode.APISERVER_ONLY) as box:
        gpus = cards("op-node", 2)
        body = kwok.node("op-node", advertised(gpus, max_slices=7), address=box.box.plan.box_ip)
        del body["spec"]["taints"]
        box.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(body))
        _install_rights(box)
        box.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield box


class Routers(ThreadingHTTPServer):
    """The one router of the cluster, as far as the operator asks it: it tells the demand that a test sets."""

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), _Demand)
        self.demand: Body = {}


class _Demand(BaseHTTPRequestHandler):
    server: Routers

    def do_GET(self) -> None:
        body = json.dumps({"models": self.server.demand}).encode()
        self.send_response(200 if self.path == "/demand" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def routers(op_box: RunningBox) -> Iterator[Routers]:
    """Known to the cluster by an EndpointSlice with this host's address."""
    server = Routers()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    op_box.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "mica-router-x",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": "mica-router"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [op_box.box.plan.host_ip], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": server.server_port}],
        }
    )
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _install_rights(box: RunningBox) -> None:
    command = [str(box.box.binary("helm")), "template", "mica", CHART, "--namespace", NAMESPACE, "--set", "scheduler.image=x"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    chosen = [body for body in yaml.safe_load_all(done.stdout) if body and body["kind"] in KINDS]
    box.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *chosen)


@pytest.fixture(scope="session")
def operator_process(op_box: RunningBox, routers: Routers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator under its service account, to be started."""
    folder = tmp_path_factory.mktemp("operator")
    config = yaml.safe_load(op_box.box.kubeconfig.read_text())
    token = op_box.kubectl("-n", NAMESPACE, "create", "token", "mica-operator").strip()
    config["users"][0]["user"] = {"token": token}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = Operator(kubeconfig, port, folder / "log", routers.server_port)
    yield process
    process.kill()


@pytest.fixture
def operator(operator_process: Operator) -> Operator:
    """A running operator: one that an earlier test ended and did not start again is started."""
    if not operator_process.running:
        operator_process.start()
    return operator_process


@dataclass(frozen=True)
class Services:
    """InferenceServices in a namespace of their own."""

    box: RunningBox
    namespace: str

    def create(self, name: str, **spec: Any) -> None:
        body = {"model": {"uri": "file:///m.gguf"}, "slice": {"cores": 20, "memory": "3Gi"}, **spec}
        meta = {"name": name, "namespace": self.namespace}
        self.box.apply({"apiVersion": "mica.dev/v1alpha1", "kind": "InferenceService", "metadata": meta, "spec": body})

    def get(self, kind: str, *args: str) -> Body:
        return self.box.get(kind, "-n", self.namespace, *args)

    def ready(self, name: str) -> Body:
        """Ready, or an empty condition while there is none."""
        conditions = self.get("minf", name).get("status", {}).get("conditions", [])
        found: list[Body] = [c for c in conditions if c["type"] == "Ready"]
        return found[0] if found else {"status": "", "reason": "", "message": ""}

    def wait_ready(self, name: str, status: str = "True", reason: str | None = None) -> Body:
        def check() -> Body | None:
            ready = self.ready(name)
            return ready if ready["status"] == status and reason in (None, ready["reason"]) else None

        found: Body = eventually(check)
        return found


@pytest.fixture
def services(op_box: RunningBox, operator: Operator) -> Iterator[Services]:
    namespace = f"op-{uuid.uuid4().hex[:8]}"
    op_box.kubectl("create", "namespace", namespace)
    yield Services(op_box, namespace)
    # While a service exists its names are its own, and tests use the same ones: the next test's would be the younger.
    op_box.kubectl("-n", namespace, "delete", "minf", "--all", "--wait")
    op_box.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    return eventually
