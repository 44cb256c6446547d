"""The `cluster` fixture: a real API server with controllers, scheduler and kwok, without a node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mica_box.plan import Mode
from mica_box.testing import RunningBox, running_box


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/integration/" in str(item.path):
            item.add_marker(pytest.mark.box)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningBox]:
    """One API server for the whole session; tests use namespaces and names of their own."""
    with running_box("mica-it", mode=Mode.APISERVER_ONLY) as box:
        yield box
