"""The `box` fixture: a whole cluster with a real node, Mica's images already imported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mica_api import names
from mica_box.kwok import add_kwok_nodes
from mica_box.plan import Mode
from mica_box.testing import RunningBox, running_box
from mica_demo.install import install

from .mica_under_test import Platform, eventually


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/e2e/" in str(item.path):
            item.add_marker(pytest.mark.box)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def box() -> Iterator[RunningBox]:
    """One box for the whole session; `box.images["mica"]` and friends are ready to be used in pods."""
    with running_box("mica-e2e", mode=Mode.FULL, load_images=True) as running:
        yield running


@pytest.fixture(scope="session")
def mica(box: RunningBox) -> Platform:
    """Mica, installed by its chart, with fake GPU nodes beside the real one."""
    install(box)
    box.kubectl("delete", "minf", "--all", "--wait")  # a box that was kept may hold what an interrupted session left
    add_kwok_nodes(box.box, 3)
    eventually("the pool to be counted", lambda: box.get("vgpupool", "default")["status"].get("nodes") == 4)
    return Platform(box)


@pytest.fixture(autouse=True)
def _alone(mica: Platform) -> None:
    """Whatever an earlier test has left, a test starts with no pod but those of InferenceServices."""
    mica.box.kubectl("delete", "pods", "-l", f"!{names.LABEL_INFERENCE_SERVICE}", "--now", "--wait")
    served = {pod["metadata"]["uid"] for pod in mica.box.get("pods")["items"]}
    eventually("the node to have let go", lambda: all(held["podUID"] in served for held in mica.held()))
