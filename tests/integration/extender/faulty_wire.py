"""A proxy between the extender and the real API server that loses, delays and refuses, and the judge of what was stored.

The extender speaks plain HTTP to it and it speaks TLS to the API server, with the caller's own credentials. When a fault strikes
is drawn from one seed; which one strikes is dealt, so that as few faults as there are kinds show them all. What was done to which
kind of request is counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from aiohttp import web

from mica_api import names

REQUEST_FAULTS: Final = ("lost before", "lost after", "late", "409", "429", "500", "500 after")
WATCH_FAULTS: Final = ("lag", "cut off")
_DROPPED: Final = {"host", "content-length", "transfer-encoding", "connection", "content-encoding", "accept-encoding"}


class FaultyWire:
    """Runs in a thread of its own. ``faults`` is the chance of one; ``cut`` drops everything: the API server is away."""

    def __init__(self, upstream: str, authority: str, *, seed: int) -> None:
        self.faults = 0.0
        self.cut = False
        self.hits: Counter[tuple[str, str]] = Counter()
        self.port = 0
        self._upstream = upstream.rstrip("/")
        self._tls = ssl.create_default_context(cadata=authority)
        self._random = random.Random(seed)
        self._decks: dict[str, list[str]] = {}
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as self._session:
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._ended.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.cut:
            return _hang_up(request)
        if request.query.get("watch"):
            return await self._watch(request)
        body = await request.read()
        kind = request.path.rpartition("/")[2] if request.method == "POST" else request.method
        chance = self.faults * (2 if kind == "binding" else 1)
        fault = self._deal(kind, REQUEST_FAULTS) if self._random.random() < chance else ""
        if kind == "GET" and fault == "409":
            fault = "429"
        self.hits[kind, fault] += 1
        if fault == "lost before":
            return _hang_up(request)
        if fault in ("409", "429", "500"):
            return web.json_response({"kind": "Status", "code": int(fault), "message": "by the wire"}, status=int(fault))
        if fault == "late":
            await asyncio.sleep(self._random.uniform(0.5, 4.0))
        status, answer = await asyncio.shield(self._forward(request, body))
        if fault == "lost after":
            return _hang_up(request)
        if fault == "500 after":
            return web.json_response({"kind": "Status", "code": 500, "message": "by the wire, after it was done"}, status=500)
        return web.Response(body=answer, status=status, content_type="application/json")

    def _deal(self, kind: str, faults: Sequence[str]) -> str:
        """The next fault for this kind of request: every one once, in a drawn order, and again."""
        deck = self._decks.setdefault(kind, [])
        if not deck:
            deck.extend(self._random.sample(faults, len(faults)))
        return deck.pop()

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _DROPPED}
        async with self._session.request(
            request.method, self._upstream + request.raw_path, data=body, headers=headers
        ) as response:
            return response.status, await response.read()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _DROPPED}
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        forever = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._upstream + request.raw_path, headers=headers, timeout=forever) as response:
            answer.set_status(response.status)
            await answer.prepare(request)
            async for chunk in response.content.iter_any():
                if request.transport is None or request.transport.is_closing():
                    break
                fault = self._deal("watch", WATCH_FAULTS) if self._random.random() < self.faults / 3 else ""
                self.hits["watch", fault] += 1
                if self.cut or fault == "cut off":
                    return _hang_up(request, answer)
                if fault == "lag":
                    await asyncio.sleep(self._random.uniform(0.2, 2.0))
                with suppress(ConnectionError):
                    await answer.write(chunk)
        return answer


def _hang_up(request: web.Request, answer: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return answer or web.Response(status=502)


@dataclass(frozen=True)
class Card:
    """What a card can bear."""

    memory_mib: int
    slices: int


class History:
    """Versions of pods in the order of their revisions, judged as the node would."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def problems(self, versions: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
        """Every revision at which a card had more than it can bear, a decision changed, or a pod was bound without one."""
        taken: dict[str, list[tuple[str, int, int]]] = {}
        found: list[str] = []
        for kind, pod in versions:
            uid, revision = pod["metadata"]["uid"], pod["metadata"]["resourceVersion"]
            before = taken.get(uid)
            if kind == "DELETED":
                taken.pop(uid, None)
                continue
            if not pod["spec"].get("nodeName"):
                continue
            shares = _shares(pod)
            if shares is None:
                found.append(f"{revision}: {pod['metadata']['name']} is bound without a decision for itself")
                continue
            if before is not None and before != shares:
                found.append(f"{revision}: the decision of {pod['metadata']['name']} changed")
            taken[uid] = shares
            found += [f"{revision}: {words}" for words in self._over(taken)]
        return found

    def _over(self, taken: dict[str, list[tuple[str, int, int]]]) -> list[str]:
        sums: dict[str, tuple[int, int, int]] = {}
        for shares in taken.values():
            for uuid, memory, cores in shares:
                m, c, n = sums.get(uuid, (0, 0, 0))
                sums[uuid] = (m + memory, c + cores, n + 1)
        limit = self._card
        return [f"{uuid} has {s}" for uuid, s in sums.items() if s[0] > limit.memory_mib or s[1] > 100 or s[2] > limit.slices]


def _shares(pod: dict[str, Any]) -> list[tuple[str, int, int]] | None:
    raw = pod["metadata"].get("annotations", {}).get(names.allocation_annotation(0))
    value = json.loads(raw) if raw else {}
    if (value.get("uid"), value.get("node")) != (pod["metadata"]["uid"], pod["spec"]["nodeName"]):
        return None
    return [(gpu["uuid"], gpu["mem"], gpu["cores"]) for gpu in value["gpus"]]
