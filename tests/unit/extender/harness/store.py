"""What the API server keeps: objects, one revision counter, and per kind the log that watches are played from.

Exact in what matters here: which Binding is refused, what one write changes, and in which order everybody sees it.
"""

from __future__ import annotations

import asyncio
import bisect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


class Refused(Exception):
    """An error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Kind:
    """Objects of one kind."""

    bodies: dict[str, Body] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def at(self, revision: int) -> dict[str, bytes]:
        """The objects as they were at a revision."""
        shown: dict[str, bytes] = {}
        for index in range(bisect.bisect_right(self.revisions, revision)):
            event = json.loads(self.lines[index])
            if event["type"] == "DELETED":
                shown.pop(self.keys[index], None)
            else:
                shown[self.keys[index]] = json.dumps(event["object"]).encode()
        return shown


class Store:
    """``on_binding`` sees every Binding once it is stored: the pod and its key."""

    def __init__(self) -> None:
        self.revision = 100
        self.kinds: dict[str, Kind] = {name: Kind() for name in ("pods", "vgpunodes", "vgpupools", "leases", "deviceclasses")}
        self.on_binding: Callable[[str, Body], None] = lambda key, body: None
        self.on_eviction: Callable[[Body], None] = lambda body: None

    @property
    def pods(self) -> dict[str, Body]:
        return self.kinds["pods"].bodies

    def put(self, kind: str, body: Body) -> Body:
        """Store a new version. Bodies are never changed in place."""
        self.revision += 1
        meta = {**body["metadata"], "resourceVersion": str(self.revision)}
        body = {**body, "metadata": meta}
        known = self.kinds[kind]
        key = _key(meta)
        event = "MODIFIED" if key in known.bodies else "ADDED"
        known.bodies[key] = body
        known.raw[key] = json.dumps(body).encode()
        self._log(kind, key, event, known.raw[key])
        return body

    def remove(self, kind: str, key: str) -> None:
        """Delete for good."""
        known = self.kinds[kind]
        body = known.bodies.pop(key, None)
        if body is None:
            return
        known.raw.pop(key)
        self.revision += 1
        meta = {**body["metadata"], "resourceVersion": str(self.revision)}
        self._log(kind, key, "DELETED", json.dumps({**body, "metadata": meta}).encode())

    def _log(self, kind: str, key: str, event: str, raw: bytes) -> None:
        known = self.kinds[kind]
        known.revisions.append(self.revision)
        known.keys.append(key)
        known.lines.append(b'{"type":"%s","object":%s}\n' % (event.encode(), raw))
        waiting, known.waiting = known.waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def bind(self, key: str, binding: Body) -> None:
        """What ``setPodNodeAndMetadata`` does. Raises Refused."""
        stored = self.pods.get(key)
        if stored is None:
            raise Refused(404, f"pods {key} not found")
        meta, wanted = stored["metadata"], binding["metadata"]
        for precondition in ("uid", "resourceVersion"):
            if wanted.get(precondition) not in (None, "", meta[precondition]):
                raise Refused(409, f"precondition failed: {precondition} in object meta: {meta[precondition]}")
        if meta.get("deletionTimestamp"):
            raise Refused(409, f"pod {key} is being deleted, cannot be assigned to a host")
        if stored["spec"].get("nodeName"):
            raise Refused(409, f'pod {key} is already assigned to node "{stored["spec"]["nodeName"]}"')
        annotations = {**meta["annotations"], **wanted.get("annotations", {})}
        spec = {**stored["spec"], "nodeName": binding["target"]["name"]}
        self.on_binding(key, self.put("pods", {**stored, "metadata": {**meta, "annotations": annotations}, "spec": spec}))

    def evict(self, key: str, eviction: Body) -> None:
        """Eviction: deletion that may be refused. Raises Refused."""
        stored = self.pods.get(key)
        if stored is None:
            raise Refused(404, f"pods {key} not found")
        uid = eviction.get("deleteOptions", {}).get("preconditions", {}).get("uid")
        if uid not in (None, stored["metadata"]["uid"]):
            raise Refused(409, "the uid in the precondition does not match")
        self.on_eviction(stored)
        self.delete(key)

    def delete(self, key: str) -> None:
        """DELETE of a pod: one that nobody runs is gone at once, another ends first."""
        stored = self.pods.get(key)
        if stored is None or stored["metadata"].get("deletionTimestamp"):
            return
        if stored["spec"].get("nodeName"):
            self.put("pods", {**stored, "metadata": {**stored["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
        else:
            self.remove("pods", key)

    def touch(self, key: str) -> None:
        """Somebody patches the pod's status."""
        stored = self.pods.get(key)
        if stored is not None:
            self.put("pods", {**stored, "status": {**stored["status"], "touched": str(self.revision)}})


def _key(meta: Body) -> str:
    return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])
