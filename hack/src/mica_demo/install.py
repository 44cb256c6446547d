"""Installing the chart into a box, as a user does: `helm upgrade --install --wait`, repeatable after a failure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mica_box.proc import run
from mica_box.running import RunningBox

NAMESPACE: Final = "mica-system"
RELEASE: Final = "mica"
_CHART: Final = Path(__file__).resolve().parents[3] / "charts" / "mica"


def helm_command(images: Mapping[str, str], *extra: str) -> list[str]:
    """The helm command line for images given as `name: reference`."""
    repository, tag = images["mica"].rsplit(":", 1)
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "scheduler.image": images["kube-scheduler"],
        "engines.llamacpp.image": images["mica-demo-engine"],
        "simulatedGPUs.enabled": "true",
    }
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    install = ["helm", "upgrade", "--install", RELEASE, os.path.relpath(_CHART), "--namespace", NAMESPACE, "--create-namespace"]
    return [*install, "--wait", "--timeout", "3m", *sets, *extra]


def install(box: RunningBox, *extra: str) -> None:
    """Install or upgrade; returns when every pod is Ready. Raises BoxError with helm's words."""
    run(helm_command(box.images, *extra), env=box.environment, timeout_s=240)
