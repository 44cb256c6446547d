"""The extender and a stock kube-scheduler as programs of the host, against the API server of a box.

With the chart's own configuration, certificates, rights, policies and webhooks, rendered by helm: what runs is what is installed,
only addresses and paths are replaced. For tests and benchmarks that need to stop, kill or measure one of the two.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trustme
import yaml

from mica_api import names
from mica_box.child import Child, free_port
from mica_box.errors import BoxError
from mica_box.proc import run
from mica_box.running import RunningBox

_CHART: Final = Path(__file__).resolve().parents[3] / "charts" / "mica"
_CRDS: Final = frozenset({"CustomResourceDefinition"})
_RIGHTS: Final = frozenset({"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "DeviceClass"})
_POLICIES: Final = frozenset({"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"})
_WEBHOOKS: Final = frozenset({"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})
READY_WITHIN_S: Final = 60.0


class SchedulerPair:
    """Nothing is created or started by making one; ``install`` and ``guard`` write to the API server, ``start`` runs programs.

    ``namespace`` is the release's; ``folder`` takes configuration, certificates and logs.
    """

    def __init__(self, cluster: RunningBox, folder: Path, *, namespace: str, settings: Mapping[str, str] | None = None) -> None:
        self._cluster = cluster
        self._folder = folder
        self.namespace = namespace
        self._settings = dict(settings or {})
        self._ports = {what: free_port() for what in ("scheduler", "webhook", "admin", "secure")}
        self._rendered = self._render()
        self._made: dict[str, Child] = {}

    @property
    def extender(self) -> Child:
        """The extender. Raises KeyError before ``install``."""
        return self._made["extender"]

    @property
    def scheduler(self) -> Child:
        """kube-scheduler with the chart's configuration. Raises KeyError before ``install``."""
        return self._made["scheduler"]

    def install(self) -> None:
        """CRDs, the account, its rights, and the poke object; afterwards both programs can start."""
        crds = self._of(_CRDS)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self._cluster.apply(namespace, *crds)
        established = [f"crd/{crd['metadata']['name']}" for crd in crds]
        self._cluster.kubectl("wait", "--for=condition=Established", "--timeout=20s", *established)
        self._cluster.apply(*self._of(_RIGHTS))
        kubeconfig = self._kubeconfig()
        self._made = {"extender": self._extender(kubeconfig), "scheduler": self._scheduler(kubeconfig)}

    def guard(self) -> None:
        """Policies and webhooks. The extender must be ready: without it no pod that asks for slices is admitted."""
        self._cluster.apply(*self._of(_POLICIES), *self._webhooks())

    def unguard(self) -> None:
        """Take policies and webhooks away."""
        self._delete(*self._of(_POLICIES), *self._webhooks())

    def stop(self) -> None:
        """Stop whichever of the two runs, the scheduler first."""
        for name in ("scheduler", "extender"):
            if name in self._made:
                self._made[name].stop()

    def remove(self) -> None:
        """Stop both and take everything away but the CRDs, which keep their objects."""
        self.stop()
        self._delete(*self._of(_RIGHTS | _POLICIES), *self._webhooks())
        self._cluster.kubectl("delete", "--wait=false", "--ignore-not-found", "namespace", self.namespace)

    def start_extender(self) -> None:
        """Start it and wait until it is ready."""
        self.extender.start()
        self._wait(self.extender, self.ready, what="the extender is ready")

    def start_scheduler(self) -> None:
        """Start it and wait until it holds the Lease."""
        self.scheduler.start()
        self._wait(self.scheduler, self._leading, what="kube-scheduler holds the Lease")

    def ready(self) -> bool:
        """Whether the extender says that it is ready."""
        return self.admin("/readyz")[0] == 200

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of the extender's admin port; status 0 when nobody answers."""
        url = f"http://127.0.0.1:{self._ports['admin']}{path}"
        done = subprocess.run(["curl", "-s", "-m", "5", "-w", "\n%{http_code}", url], capture_output=True, text=True, check=False)
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body

    def _delete(self, *objects: dict[str, Any]) -> None:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self._cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=body)

    def _of(self, kinds: frozenset[str]) -> list[dict[str, Any]]:
        return [rendered for rendered in self._rendered if rendered["kind"] in kinds]

    def _render(self) -> list[dict[str, Any]]:
        helm = self._cluster.box.binary("helm")
        words: list[str | Path] = [helm, "template", "mica", _CHART, "-n", self.namespace, "--set", "scheduler.image=unused"]
        text = run(words, env=self._cluster.environment, timeout_s=60)
        return [document for document in yaml.safe_load_all(text) if document]

    def _wait(self, child: Child, check: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not check():
            if not child.alive or time.monotonic() > deadline:
                raise BoxError(f"not so: {what}; the end of the log of {child.name}:\n{child.tail()}", do="mend what it says")
            time.sleep(0.05)

    def _leading(self) -> bool:
        path = "jsonpath={.spec.holderIdentity}"
        words = ("get", "lease", names.SCHEDULER_NAME, "-n", self.namespace, "--ignore-not-found", "-o", path)
        return self._cluster.kubectl(*words).startswith(socket.gethostname())

    def _file(self, name: str, content: bytes | str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def _kubeconfig(self) -> Path:
        """Configuration with the rights of the chart's service account and no others."""
        token = self._cluster.kubectl("create", "token", "mica-extender", "-n", self.namespace).strip()
        config = yaml.safe_load(Path(self._cluster.kubeconfig).read_text())
        config["users"] = [{"name": "extender", "user": {"token": token}}]
        for context in config["contexts"]:
            context["context"]["user"] = "extender"
        return self._file("kubeconfig", yaml.safe_dump(config))

    def _secret(self, name: str) -> Path:
        secret = next(o for o in self._rendered if o["kind"] == "Secret" and o["metadata"]["name"] == name)
        for key, value in secret["data"].items():
            self._file(f"{name}/{key}", base64.b64decode(value))
        return self._folder / name

    def _webhook_tls(self) -> Path:
        authority = trustme.CA()
        issued = authority.issue_cert(self._cluster.host_ip)
        self._file("webhook-tls/tls.crt", b"".join(part.bytes() for part in issued.cert_chain_pems))
        self._file("webhook-tls/tls.key", issued.private_key_pem.bytes())
        self._file("webhook-tls/ca.crt", authority.cert_pem.bytes())
        return self._folder / "webhook-tls"

    def _webhooks(self) -> list[dict[str, Any]]:
        """The chart's, but with the host's address in place of the Service."""
        authority = self._folder / "webhook-tls/ca.crt"
        bundle = base64.b64encode(authority.read_bytes()).decode() if authority.exists() else ""
        found: list[dict[str, Any]] = json.loads(json.dumps(self._of(_WEBHOOKS)))
        for webhook in (w for o in found for w in o["webhooks"]):
            path = webhook["clientConfig"]["service"]["path"]
            url = f"https://{self._cluster.host_ip}:{self._ports['webhook']}{path}"
            webhook["clientConfig"] = {"url": url, "caBundle": bundle}
        return found

    def _extender(self, kubeconfig: Path) -> Child:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
        env = {
            **clean,
            "MICA_KUBECONFIG": str(kubeconfig),
            "MICA_POD_NAME": socket.gethostname(),
            "MICA_NAMESPACE": self.namespace,
            "MICA_SCHEDULER_TLS_DIR": str(self._secret("mica-scheduler-tls")),
            "MICA_WEBHOOK_TLS_DIR": str(self._webhook_tls()),
            "MICA_SCHEDULER_PORT": str(self._ports["scheduler"]),
            "MICA_WEBHOOK_PORT": str(self._ports["webhook"]),
            "MICA_ADMIN_PORT": str(self._ports["admin"]),
            **self._settings,
        }
        return Child("extender", [sys.executable, "-m", "mica_extender"], env, self._folder / "extender.log")

    def _scheduler(self, kubeconfig: Path) -> Child:
        chart = next(o for o in self._rendered if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "mica-scheduler")
        config = yaml.safe_load(chart["data"]["config.yaml"])
        config["clientConnection"]["kubeconfig"] = str(kubeconfig)
        client = self._secret("mica-scheduler-client-tls")
        [extender] = config["extenders"]
        extender["urlPrefix"] = f"https://127.0.0.1:{self._ports['scheduler']}"
        files = {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key"}
        extender["tlsConfig"] |= {key: str(client / file) for key, file in files.items()}
        path = self._file("scheduler.yaml", yaml.safe_dump(config))
        child = scheduler_child(
            self._cluster, "kube-scheduler", config=path, kubeconfig=kubeconfig, folder=self._folder, port=self._ports["secure"]
        )
        child.env = {**child.env, **self._container_env("kube-scheduler")}
        return child

    def _container_env(self, name: str) -> dict[str, str]:
        """Environment of a container of the scheduler's pod; of its references only those to the container's own limits."""
        chart = next(o for o in self._rendered if o["kind"] == "Deployment" and o["metadata"]["name"] == "mica-scheduler")
        container = next(c for c in chart["spec"]["template"]["spec"]["containers"] if c["name"] == name)
        found: dict[str, str] = {}
        for entry in container["env"]:
            source = entry.get("valueFrom", {}).get("resourceFieldRef")
            found[entry["name"]] = str(_bytes(container["resources"]["limits"]["memory"])) if source else entry["value"]
        return found


def _bytes(quantity: str) -> int:
    """Bytes of a memory limit as the chart writes it (Mi or Gi)."""
    units = {"Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def scheduler_child(cluster: RunningBox, name: str, *, config: Path, kubeconfig: Path, folder: Path, port: int) -> Child:
    """A stock kube-scheduler with this configuration file; ``port`` is for its own health and metrics."""
    words = [str(cluster.box.binary("kube-scheduler")), f"--config={config}", f"--secure-port={port}"]
    words += [f"--cert-dir={folder}", *(f"--{what}-kubeconfig={kubeconfig}" for what in ("authentication", "authorization"))]
    return Child(name, words, cluster.environment, folder / f"{name}.log")
