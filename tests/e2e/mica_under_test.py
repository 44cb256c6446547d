"""Mica in a running box, as the end-to-end tests use it. Imports no pytest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mica_api import names
from mica_box.errors import BoxError
from mica_box.plan import NODE_NAME
from mica_box.running import RunningBox

T = TypeVar("T")
_POLL_S: Final = 0.25
ON_REAL_NODE: Final = {"kubernetes.io/hostname": NODE_NAME}


class TookTooLong(AssertionError):
    """Something did not happen in time; the message carries the last thing seen."""


def eventually(what: str, probe: Callable[[], T | None], *, timeout_s: float = 60.0) -> T:
    """First result of ``probe`` that is truthy. Raises TookTooLong with the last result or error."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            result = probe()
            if result:
                return result
            last = result
        except (BoxError, KeyError, IndexError, ValueError) as error:
            last = error
        time.sleep(_POLL_S)
    raise TookTooLong(f"{what}: not within {timeout_s:.0f} s; last seen: {last}")


@dataclass(frozen=True)
class Platform:
    """A box with Mica installed."""

    box: RunningBox

    def pod(
        self,
        name: str,
        command: list[str],
        *,
        limits: dict[str, Any],
        annotations: dict[str, str] | None = None,
        **spec: Any,
    ) -> dict[str, Any]:
        """Body of a pod with one container on the real node."""
        container = {
            "name": "app",
            "image": self.box.images["mica-test-gpu"],
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "resources": {"limits": limits},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "nodeSelector": ON_REAL_NODE,
                "containers": [container],
                **spec,
            },
        }

    def refused(self, *objects: dict[str, Any]) -> str:
        """The API server's words when it refuses these objects. Raises AssertionError when it accepts them."""
        try:
            self.box.apply(*objects)
        except BoxError as error:
            return error.what
        raise AssertionError(f"accepted: {json.dumps(objects)}")

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object."""
        return self.box.get(kind, name, "-n", namespace)

    def phase(self, pod: str, phase: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """The pod once it is in this phase."""

        def probe() -> dict[str, Any] | None:
            body = self.get("pod", pod)
            return body if body["status"].get("phase") == phase else None

        try:
            return eventually(f"pod {pod} to be {phase}", probe, timeout_s=timeout_s)
        except TookTooLong as error:
            raise TookTooLong(f"{error}\n{self.box.kubectl('describe', 'pod', pod)}") from error

    def logs(self, pod: str) -> str:
        """What the pod has printed."""
        return self.box.kubectl("logs", pod)

    def scheduling_message(self, pod: str) -> str:
        """Why the pod is not placed; empty when it is."""
        conditions = self.get("pod", pod)["status"].get("conditions", [])
        waiting = [c for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"]
        return waiting[0].get("message", "") if waiting else ""

    def waiting_message(self, pod: str) -> str:
        """Reason and message of a container that waits; empty when none does."""
        statuses = self.get("pod", pod)["status"].get("containerStatuses", [])
        waiting = [s["state"]["waiting"] for s in statuses if "waiting" in s["state"]]
        return f"{waiting[0].get('reason', '')}: {waiting[0].get('message', '')}" if waiting else ""

    def delete(self, kind: str, *objects: str) -> None:
        """Delete and wait until they are gone."""
        self.box.kubectl("delete", kind, *objects, "--ignore-not-found", "--now", "--wait")

    def agent_metrics(self) -> dict[str, float]:
        """Samples of the real node's agent, by name and labels as in the text format."""
        selector = ("-l", "app.kubernetes.io/component=node-agent", "-o", "name")
        agent = self.box.kubectl("-n", "mica-system", "get", "pods", *selector).split()[0].removeprefix("pod/")
        text = self.box.kubectl("get", "--raw", f"/api/v1/namespaces/mica-system/pods/{agent}:8080/proxy/metrics")
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def held(self) -> list[dict[str, Any]]:
        """Slices that the real node's agent reports."""
        status = self.box.get("vgpunode", NODE_NAME).get("status", {})
        slices: list[dict[str, Any]] = status.get("slices", [])
        return slices

    def node_files(self) -> list[str]:
        """Files of slices, pins and CDI specs that exist on the real node."""
        found = self.box.box.exec(
            "sh", "-c", "find /run/mica/slices /var/lib/mica/pins -mindepth 1 -maxdepth 1; find /var/run/cdi -name 'mica-*'"
        )
        return found.split()

    def binding(self, pod: dict[str, Any], node: str, allocations: dict[str, str]) -> str:
        """POST a Binding as the extender's account; the API server's answer. Raises BoxError when it refuses."""
        meta = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"], "annotations": allocations},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
        account = "system:serviceaccount:mica-system:mica-extender"
        return self.box.kubectl("create", f"--as={account}", "--raw", path, "-f", "-", stdin=json.dumps(body))


def inference_service(name: str) -> dict[str, Any]:
    """Body of a small model on the real node, which gives its slice back at once."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "model": {"uri": "file:///models/tiny.gguf"},
            "engine": {"drain": "1s"},
            "slice": {"cores": 30, "memory": "3Gi"},
            "placement": {"nodeSelector": ON_REAL_NODE},
        },
    }


def condition(body: dict[str, Any], kind: str) -> dict[str, Any]:
    """One condition of an object. Raises KeyError when it has none of the kind."""
    found: dict[str, Any] = {c["type"]: c for c in body["status"]["conditions"]}[kind]
    return found


def serving_url(mica: Platform, name: str) -> str:
    """URL of an InferenceService once it is Ready."""

    def ready() -> str | None:
        body = mica.get("minf", name)
        return body["status"]["url"] if condition(body, "Ready")["status"] == "True" else None

    return eventually(f"{name} to be Ready", ready, timeout_s=120)


def slice_limits(*, number: int = 1, cores: int | None = None, memory_gib: int | None = None) -> dict[str, Any]:
    """Canonical resources of a slice."""
    wanted = {names.RESOURCE_NUMBER: number, names.RESOURCE_CORES: cores, names.RESOURCE_MEMORY: memory_gib}
    return {key: value for key, value in wanted.items() if value is not None}
