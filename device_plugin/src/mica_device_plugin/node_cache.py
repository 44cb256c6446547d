"""The pool that the node was last known to be in, kept on the host: a rebooted node serves its kubelet without API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

from mica_api.compute import DEFAULT_RULES, Compute, ComputeRules, parse_policy, parse_priority
from mica_api.models.vgpu_pool import GPUMode
from mica_api.sharing import Sharing
from mica_device_plugin.files import Files
from mica_device_plugin.values import PoolChoice
from mica_runtime.logging import get_logger

_log = get_logger(__name__)


def load_pool(path: Path, files: Files) -> PoolChoice | None:
    """The last pool, or None when there was none or the file says nothing that we understand."""
    data = files.read(path)
    if data is None:
        return None
    try:
        raw: Any = json.loads(data)
        sharing = Sharing(int(raw["maxSlicesPerGPU"]), int(raw["memoryOvercommitPercent"]), int(raw["coresOvercommitPercent"]))
        modes = {str(uuid): _mode(mode) for uuid, mode in raw["modes"].items()}
        return PoolChoice(str(raw["pool"]), sharing, _mode(raw["mode"]), modes, _compute(raw.get("compute")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("node file cannot be read and is ignored", path=str(path), error=repr(error))
        return None


def store_pool(path: Path, pool: PoolChoice | None, files: Files) -> None:
    """Remember the pool. Raises OSError."""
    if pool is None:
        files.remove(path)
        return
    files.make_dir(path.parent)
    body = {
        "pool": pool.name,
        "maxSlicesPerGPU": pool.sharing.max_slices,
        "memoryOvercommitPercent": pool.sharing.memory_overcommit_percent,
        "coresOvercommitPercent": pool.sharing.cores_overcommit_percent,
        "mode": pool.mode,
        "modes": dict(pool.modes),
        "compute": {
            "policy": pool.compute.default.policy,
            "priority": pool.compute.default.priority,
            "weight": pool.compute.default.weight,
            "highestPriority": pool.compute.highest_priority,
            "maxWeight": pool.compute.max_weight,
        },
    }
    files.write(path, json.dumps(body).encode(), mode=0o644, durable=True)


def _compute(raw: Any) -> ComputeRules:
    """What an earlier version has not written is the default."""
    if raw is None:
        return DEFAULT_RULES
    default = Compute(parse_policy("policy", raw["policy"]), parse_priority("priority", raw["priority"]), int(raw["weight"]))
    return ComputeRules(default, parse_priority("highestPriority", raw["highestPriority"]), int(raw["maxWeight"]))


def _mode(value: Any) -> GPUMode:
    if value not in get_args(GPUMode):
        raise ValueError(f"GPU mode {value!r} is not known")
    return cast("GPUMode", value)
