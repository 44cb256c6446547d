"""Ready: the caches and the Lease were listed, and both servers listen with their certificates."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trustme

from mica_extender.state.cluster import Cluster
from mica_extender.state.leadership import LeaseWatch
from mica_extender.state.ledger import Ledger
from mica_runtime.http import TlsFiles, serve


class EmptyCluster:
    """Every list is empty and complete; paths that contain ``slow`` answer only once they may."""

    def __init__(self, slow: str) -> None:
        self.slow = slow
        self.may = asyncio.Event()

    async def request(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        if self.slow in path:
            await self.may.wait()
        return b'{"metadata":{"resourceVersion":"1"},"items":[]}'

    async def stream_lines(self, path: str, *, params: Mapping[str, str], silence: float) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


@pytest.mark.parametrize("slow", ["/pods", "/vgpunodes", "/vgpupools", "/leases"])
async def test_caches_are_synced_once_every_list_has_been_seen(slow: str) -> None:
    source = EmptyCluster(slow)
    cluster = Cluster(source, ledger=Ledger(), lease=LeaseWatch("pod-1"), namespace="mica")
    tasks = [asyncio.create_task(part) for part in cluster.parts()]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not cluster.synced()
    source.may.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert cluster.synced()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_says_that_it_listens_when_its_port_is_open_and_not_before(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    (tmp_path / "tls.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "tls.key").write_bytes(issued.private_key_pem.bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listening = asyncio.Event()
    serving = asyncio.create_task(
        serve(None, host="127.0.0.1", port=port, tls=TlsFiles(tmp_path, client_ca=False), on_listening=listening.set)
    )
    assert not listening.is_set()
    await asyncio.wait_for(listening.wait(), 10)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_server_whose_certificate_cannot_be_read_never_says_that_it_listens(tmp_path: Path) -> None:
    heard: list[bool] = []
    with pytest.raises(OSError):
        await serve(
            None, host="127.0.0.1", port=1, tls=TlsFiles(tmp_path, client_ca=False), on_listening=lambda: heard.append(True)
        )
    assert heard == []
