"""An API server as far as the extender reads one: paged lists and watches of pods, VGPUNodes and VGPUPools. A process of its own.

usage: python -m benchmarks.scheduler.speed_api PORT

``POST /traffic`` starts 200 watch events a second: half of them pods whose status changes, a fifth pods that end while another
takes their place, the rest what node agents report. ``POST /change`` replaces one pod at once. Everything else is 404.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import uvloop

from benchmarks.scheduler.speed_world import NODES, Cluster, Running, node_body, running_body

EVENTS_A_SECOND: Final = 200
PAGE: Final = 500
"""Objects that the extender asks for at a time."""
PODS: Final = "/api/v1/pods"
GPU_NODES: Final = "/apis/mica.dev/v1alpha1/vgpunodes"
POOLS: Final = "/apis/mica.dev/v1alpha1/vgpupools"
_COUNTS: Final = {PODS: NODES * 8, GPU_NODES: NODES, POOLS: 1}
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Api:
    """Objects, the log of their changes, and who watches."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.first_revision = self.cluster.revision
        self.log: dict[str, list[tuple[int, bytes]]] = {PODS: [], GPU_NODES: [], POOLS: []}
        self.changed = asyncio.Event()
        self.traffic: asyncio.Task[None] | None = None
        self.pages = {(path, at): self._page(path, at) for path, count in _COUNTS.items() for at in range(0, count, PAGE)}

    def page(self, path: str, offset: int, limit: int) -> bytes:
        """One page of a list, all pages of the first revision. Made before the extender starts: its start is what is timed."""
        if limit != PAGE:
            raise ValueError(f"pages of {limit} are not ready")
        return self.pages.get((path, offset)) or self._page(path, offset)

    def _page(self, path: str, offset: int) -> bytes:
        limit = PAGE
        if path == PODS:
            initial = (Running(serial, serial // 8, serial % 8) for serial in range(offset, min(offset + limit, NODES * 8)))
            items: list[Any] = [running_body(pod, self.first_revision) for pod in initial]
            total = NODES * 8
        elif path == GPU_NODES:
            total = NODES
            items = [
                node_body(i, [Running(i * 8 + card, i, card) for card in range(8)], self.first_revision)
                for i in range(offset, min(offset + limit, total))
            ]
        else:
            items, total = [], 0
        token = str(offset + limit) if offset + limit < total else ""
        meta = {"resourceVersion": str(self.first_revision), **({"continue": token} if token else {})}
        return json.dumps({"kind": "List", "metadata": meta, "items": items}, separators=(",", ":")).encode()

    def event(self, path: str, kind: str, body: Any) -> None:
        """A change, for whoever watches."""
        line = json.dumps({"type": kind, "object": body}, separators=(",", ":")).encode() + b"\n"
        self.log[path].append((self.cluster.revision, line))
        self.changed.set()

    def replace_pod(self) -> None:
        """A pod ends, and another one takes its card."""
        old, new = self.cluster.replace()
        self.event(PODS, "DELETED", running_body(old, self.cluster.step()))
        self.event(PODS, "ADDED", running_body(new, self.cluster.step()))

    async def run_traffic(self) -> None:
        """Events at an even rate, until cancelled."""
        clock = asyncio.get_running_loop().time
        due, kinds = clock(), self._kinds()
        while True:
            due += next(kinds) / EVENTS_A_SECOND
            await asyncio.sleep(max(0.0, due - clock()))

    def _kinds(self) -> Iterator[int]:
        """Send the next events; yields how many they were."""
        while True:
            drawn = self.cluster.random.random()
            if drawn < 0.55:
                pod = self.cluster.any_pod()
                self.event(PODS, "MODIFIED", running_body(pod, self.cluster.step(), ready=drawn < 0.3))
                yield 1
            elif drawn < 0.67:
                self.replace_pod()
                yield 2
            else:
                node = self.cluster.random.randrange(NODES)
                self.event(GPU_NODES, "MODIFIED", node_body(node, self.cluster.on(node), self.cluster.step()))
                yield 1


async def serve(api: Api, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            await _answer(api, method, target, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _answer(api: Api, method: str, target: str, writer: asyncio.StreamWriter) -> None:
    url = urlsplit(target)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    if method == "POST" and url.path in ("/traffic", "/change"):
        if url.path == "/change":
            api.replace_pod()
        elif api.traffic is None:
            api.traffic = asyncio.create_task(api.run_traffic())
        writer.write(_HEAD + b"content-length: 2\r\n\r\n{}")
    elif url.path not in api.log:
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")
    elif query.get("watch") == "1":
        await _watch(api, url.path, int(query["resourceVersion"]), writer)
    else:
        body = api.page(url.path, int(query.get("continue", "0")), int(query["limit"]))
        writer.write(_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def _watch(api: Api, path: str, revision: int, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
    log = api.log[path]
    sent = next((at for at, (known, _) in enumerate(log) if known > revision), len(log))
    while not writer.is_closing():
        if sent == len(log):
            api.changed.clear()
            await api.changed.wait()
        for _, line in log[sent:]:
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        sent = len(log)
        await writer.drain()


async def main() -> None:
    """Serve until killed."""
    api = Api()
    server = await asyncio.start_server(lambda r, w: serve(api, r, w), "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
