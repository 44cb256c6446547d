"""A token file that is away for a moment is a request without an answer, which every caller can handle."""

from __future__ import annotations

from typing import NoReturn

import pytest
from kubernetes.aio.client import Configuration

from mica_runtime.kube import KubeClient, Unreachable


def away(_: Configuration) -> NoReturn:
    raise FileNotFoundError("token")


async def test_requests_and_watches_without_credentials_are_unreachable() -> None:
    configuration = Configuration()
    configuration.refresh_api_key_hook = away
    async with KubeClient(configuration) as client:
        with pytest.raises(Unreachable, match="credentials"):
            await client.get("/api")
        with pytest.raises(Unreachable, match="credentials"):
            async for _ in client.stream_lines("/api", params={}, silence=1):
                pass
