"""Values that the box's unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mica_box.plan import Mode, Plan


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[3]


@pytest.fixture
def full_plan() -> Plan:
    return Plan(name="mica-demo", index=2, root=Path("/var/lib/mica-boxes/mica-demo"))


@pytest.fixture
def apiserver_plan() -> Plan:
    return Plan(name="mica-it", index=3, root=Path("/var/lib/mica-boxes/mica-it"), mode=Mode.APISERVER_ONLY)
