"""A node in a temporary directory: fake kubelet, fake API server, fake cards; the agent between them is the real one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agent_under_test import AgentUnderTest, make_settings
from fake_kubelet import FakeKubelet


@pytest.fixture
def host() -> Iterator[Path]:
    """Root of a node; a short path, because socket names are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mica", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def kubelet(host: Path) -> AsyncIterator[FakeKubelet]:
    fake = FakeKubelet(host / "kubelet")
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def new_agent(host: Path, kubelet: FakeKubelet) -> AsyncIterator[Callable[..., AgentUnderTest]]:
    """Makes agents on one host; whatever of them still runs at the end is stopped."""
    made: list[AgentUnderTest] = []

    def make(**options: object) -> AgentUnderTest:
        made.append(AgentUnderTest(make_settings(host), **options))
        return made[-1]

    yield make
    for agent in made:
        await agent.stop()


@pytest.fixture
async def agent(kubelet: FakeKubelet, new_agent: Callable[..., AgentUnderTest]) -> AgentUnderTest:
    """A running agent, registered with the fake kubelet."""
    running = new_agent()
    await running.start()
    await kubelet.wait_registered()
    return running
