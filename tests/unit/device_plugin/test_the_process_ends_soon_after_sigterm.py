"""The agent as a process of its own over simulated cards; the kubelet and the API server are made here."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_under_test import make_settings
from aiohttp import web

ROOT = Path(__file__).parents[3]
SIMULATOR = ROOT / "build" / "shim" / "sim"
CONFIG = "version=1\ngpus=1\ngpu.0.uuid=GPU-5a1e0000-0000-4000-8000-000000000000\n"
ITEMS = {
    "nodes": [
        {"metadata": {"name": "node-1", "uid": "node-uid", "resourceVersion": "1"}, "status": {"allocatable": {"cpu": "8"}}}
    ],
    "vgpupools": [
        {"metadata": {"name": "default", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}, "spec": {}}
    ],
}


class ApiServer:
    """Lists once, watches in silence and takes every write; ``hangs``: from then on nothing is answered."""

    def __init__(self) -> None:
        self.port = 0
        self.hangs = False
        self.statuses: list[dict] = []
        self.changed = asyncio.Condition()

    def ready(self) -> str:
        conditions = self.statuses[-1]["conditions"] if self.statuses else []
        return {c["type"]: c["status"] for c in conditions}.get("Ready", "")

    async def wait_ready(self) -> None:
        async with asyncio.timeout(40), self.changed:
            await self.changed.wait_for(lambda: self.ready() == "True")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method != "PATCH" and request.query.get("watch"):
            stream = web.StreamResponse()
            await stream.prepare(request)
            await asyncio.Event().wait()
        if self.hangs:
            await asyncio.Event().wait()
        if request.method != "PATCH":
            items = ITEMS.get(request.path.rpartition("/")[2], [])
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})
        body = json.loads(await request.read())
        async with self.changed:
            self.statuses += [body["status"]] if request.path.endswith("/status") else []
            self.changed.notify_all()
        return web.json_response(body)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@pytest.fixture
async def process(host, kubelet, api) -> AsyncIterator[asyncio.subprocess.Process]:
    """The running agent: registered with the kubelet, its node Ready."""
    assert (SIMULATOR / "libnvidia-ml.so.1").exists(), "run `make shim` first"
    settings = make_settings(host).model_copy(update={"sim_lib_dir": SIMULATOR, "admin_host": "127.0.0.1", "admin_port": 0})
    settings.sim_dir.mkdir(parents=True)
    (settings.sim_dir / "config").write_text(CONFIG)
    context = {"cluster": "c", "user": "u"}
    kubeconfig = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (host / "kubeconfig").write_text(json.dumps(kubeconfig))
    given = {**settings.model_dump(exclude_none=True), "kubeconfig": host / "kubeconfig"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MICA_")}
    environment |= {f"MICA_{key.upper()}": str(value) for key, value in given.items()}
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mica_device_plugin", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await api.wait_ready()
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def _terminate(process: asyncio.subprocess.Process) -> None:
    """Until the end, which comes long before the kubelet's 30 seconds are over."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await process.wait() == 0


async def test_it_says_goodbye_and_ends(process, api):
    await _terminate(process)
    assert api.ready() == "False"


async def test_an_api_server_that_answers_nothing_any_more_does_not_hold_it(process, api):
    api.hangs = True
    await _terminate(process)
    assert api.ready() == "True"
