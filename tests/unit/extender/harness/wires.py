"""The wire between a process and the API server: requests that get lost or late, and watches that lag.

``Client`` stands where ``mica_runtime.kube.KubeClient`` stands: everything above it is production code. A request that has left
lives on when its sender dies; how late it may still be stored is bounded as in reality: the connection is closed at the sender's
deadline, and the server gives up after the request's ``timeout`` or, without one, after 60 s.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from mica_runtime.kube import ApiError, Unreachable

from .faults import Strikes
from .loop import OWNER, Process
from .store import Body, Kind, Refused, Store

SERVER_GIVES_UP_S = 60.0
_TRAVEL = (0.0, 0.0, 0.0, 0.001, 0.003, 0.01, 0.05, 0.3)
_LAG = (0.0, 0.0, 0.001, 0.01, 0.05)


class Outage:
    """While it is on, nobody reaches the API server."""

    on = False


class Client:
    """One process's connection. ``on_bind`` sees every Binding when it is sent."""

    def __init__(
        self, store: Store, process: Process, strikes: Strikes, outage: Outage, on_bind: Callable[[str, Body], None]
    ) -> None:
        self._store = store
        self._process = process
        self._strikes = strikes
        self._random: random.Random = strikes.random
        self._outage = outage
        self._on_bind = on_bind
        self._seen = 0
        self._lists = 0
        self._journeys: set[asyncio.Task[None]] = set()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        deadline: float = 10.0,
    ) -> bytes:
        """See KubeClient."""
        loop = asyncio.get_running_loop()
        kind = _kind_of(method, path)
        if kind == "bind":
            self._on_bind(_pod_key(path), body)
        timer = loop.create_future()
        closing = loop.call_later(deadline, _fail, timer, Unreachable(f"{method} {path}: timed out"))
        try:
            # Credentials and a connection come first: whoever is frozen here sends on waking up.
            await asyncio.sleep(0)
            if self._outage.on:
                raise Unreachable("connection refused")
            journey = _Journey(self, kind, timer, asyncio.current_task(), loop.time() + deadline)
            give_up = float((params or {}).get("timeout", f"{SERVER_GIVES_UP_S}s").removesuffix("s"))
            sending = journey.go(method, path, body, give_up)
            context = self._process.context.copy()
            context.run(OWNER.set, None)
            self._journeys.add(loop.create_task(sending, context=context))
            answer: bytes = await timer
            return answer
        finally:
            closing.cancel()

    async def post(self, path: str, body: Mapping[str, Any], **rest: Any) -> Body:
        """See KubeClient."""
        parsed: Body = json.loads(await self.request("POST", path, body=body, **rest))
        return parsed

    async def merge_patch(self, path: str, body: Mapping[str, Any], *, field_manager: str | None = None) -> Body:
        """See KubeClient."""
        parsed: Body = json.loads(await self.request("PATCH", path, body=body))
        return parsed

    async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        """See KubeClient."""
        kind = self._store.kinds[path.rpartition("/")[2]]
        index = _after(kind, int(params["resourceVersion"]))
        while True:
            while index < len(kind.lines):
                index, batch = await self._next(kind, index)
                for line in batch:
                    yield line
                if self._outage.on or self._strikes.drawn(0.01):
                    raise Unreachable("watch broken off")
                if self._strikes.drawn(0.02):
                    yield b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n'
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            kind.waiting.append(change)
            await change

    async def _next(self, kind: Kind, index: int) -> tuple[int, list[bytes]]:
        """What arrives next: mostly one event, a moment late."""
        lag = self._random.choice(_LAG)
        if self._strikes.drawn(0.12):
            self._strikes.struck_process("informer lag", self._process)
            lag = self._lagging(kind)
        await asyncio.sleep(lag)
        lines = [kind.lines[index]]
        if self._strikes.drawn(0.08):
            self._strikes.struck_process("duplicate", self._process)
            lines.append(kind.lines[index])
        elif index + 1 < len(kind.lines) and self._strikes.drawn(0.2):
            self._strikes.struck_process("reorder", self._process)
            lines = [kind.lines[index + 1], kind.lines[index]]
        moved = index + len(set(lines))
        self._seen = max(self._seen, kind.revisions[moved - 1])
        return moved, lines

    def _lagging(self, kind: Kind) -> float:
        """The Lease is watched for its times: within the second that a takeover adds for it. Other watches may hang for long."""
        if kind is self._store.kinds["leases"]:
            return self._random.uniform(0.1, 0.9)
        return self._random.uniform(8.0, 15.0) if self._random.random() < 0.1 else self._random.uniform(0.5, 4.0)

    def listed(self, name: str) -> bytes:
        """A list; of a process that has seen more already perhaps one of the past, as no API server should answer."""
        kind = self._store.kinds[name]
        revision, objects = self._store.revision, kind.raw
        self._lists += 1
        if kind.revisions and self._seen > kind.revisions[0] and self._lists % 4 and self._strikes.drawn(0.5):
            past = [r for r in kind.revisions if r < self._seen]
            if past:
                revision = self._random.choice(past[-6:])
                objects = kind.at(revision)
                self._strikes.struck_process("stale list", self._process)
        return b'{"metadata":{"resourceVersion":"%d"},"items":[%s]}' % (revision, b",".join(objects.values()))

    def fault(self, kind: str) -> str:
        return self._strikes.for_request(kind)

    def travel(self, kind: str) -> float:
        slow = self._strikes.drawn(0.5 if kind == "evict" else 0.1)
        return self._random.uniform(0.3, 4.0) if slow else self._random.choice(_TRAVEL)

    def struck(self, fault: str, task: object) -> None:
        if not self._process.dead:
            self._strikes.struck_request(fault, self._process, task)

    @property
    def dead(self) -> bool:
        """Whether the sender is; what it sent lives on."""
        return self._process.dead

    @property
    def store(self) -> Store:
        return self._store

    @property
    def random(self) -> random.Random:
        return self._random


class _Journey:
    """One request on its way to the server and back."""

    def __init__(self, client: Client, kind: str, reply: asyncio.Future[bytes], task: object, connected_until: float) -> None:
        self._client = client
        self._kind = kind
        self._reply = reply
        self._task = task
        self._connected_until = connected_until

    async def go(self, method: str, path: str, body: Any, give_up: float) -> None:
        """Arrive, be carried out or not, and be answered or not."""
        client, loop = self._client, asyncio.get_running_loop()
        fault = client.fault(self._kind)
        await asyncio.sleep(client.travel(self._kind))
        if fault == "lost before" or loop.time() > self._connected_until:
            return self._fails(fault, Unreachable("connection reset"))
        if fault == "lands later" or (client.dead and self._kind == "bind" and client.random.random() < 0.8):
            await self._late(method, path, body, give_up)
            return None
        if fault == "429" or (fault == "500" and client.random.random() < 0.5):
            return self._fails(fault, ApiError(int(fault), "", "not carried out"))
        if fault == "409" and client.random.random() < 0.5:
            return self._fails(fault, ApiError(409, "Conflict", "the object has been modified; please try again"))
        if fault == "409":
            client.store.touch(_pod_key(path))
        status, answer = self._carry_out(method, path, body)
        await asyncio.sleep(client.travel(self._kind))
        if fault == "lost after":
            return self._fails(fault, Unreachable("connection reset after the request was carried out"))
        if fault == "500":
            return self._fails(fault, ApiError(500, "", "carried out, but the answer got lost inside the server"))
        if status >= 400:
            return self._fails("409" if status == 409 else "", ApiError.from_body(status, answer))
        if not self._reply.done():
            self._reply.set_result(answer)
        return None

    async def _late(self, method: str, path: str, body: Any, give_up: float) -> None:
        """The sender hears nothing good; the request is carried out when nobody expects it any more."""
        client, loop = self._client, asyncio.get_running_loop()
        if client.random.random() < 0.7:
            self._fails("lands later", Unreachable("connection reset"))
        else:
            loop.call_at(self._connected_until, self._fails, "lands later", Unreachable("timed out"))
        latest = max(self._connected_until - loop.time(), 0.0) * client.random.random() + give_up * client.random.random()
        await asyncio.sleep(latest)
        self._carry_out(method, path, body)

    def _carry_out(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        try:
            return 200, _carry_out(self._client, method, path, body)
        except Refused as refused:
            return refused.status, json.dumps({"reason": "", "message": str(refused)}).encode()

    def _fails(self, fault: str, error: Exception) -> None:
        if self._reply.done():
            return
        if fault:
            self._client.struck(fault, self._task)
        self._reply.set_exception(error)


def _fail(reply: asyncio.Future[bytes], error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)


def _kind_of(method: str, path: str) -> str:
    if method == "GET":
        return "read" if "/pods/" in path else "list"
    return {"binding": "bind", "eviction": "evict"}.get(path.rpartition("/")[2], "poke")


def _pod_key(path: str) -> str:
    parts = path.split("/")
    return f"{parts[4]}/{parts[6]}" if len(parts) > 6 else ""


def _carry_out(client: Client, method: str, path: str, body: Any) -> bytes:
    """The API server's part. Raises Refused."""
    store, last = client.store, path.rpartition("/")[2]
    if method == "GET" and "/pods/" in path:
        raw = store.kinds["pods"].raw.get(_pod_key(path))
        if raw is None:
            raise Refused(404, "not found")
        return raw
    if method == "GET":
        return client.listed(last)
    if last == "binding":
        store.bind(_pod_key(path), body)
    elif last == "eviction":
        store.evict(_pod_key(path), body)
    else:
        store.put("deviceclasses", {"metadata": {"name": last, **body["metadata"]}})
    return b"{}"


def _after(kind: Kind, revision: int) -> int:
    return bisect.bisect_right(kind.revisions, revision)
