"""The pool that the node was last known to be in, kept on the host: a rebooted node serves its kubelet without API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
        return PoolChoice(str(raw["pool"]), int(raw["maxSlicesPerGPU"]))
    except (ValueError, TypeError, KeyError) as error:
        _log.warning("node file cannot be read and is ignored", path=str(path), error=repr(error))
        return None


def store_pool(path: Path, pool: PoolChoice | None, files: Files) -> None:
    """Remember the pool. Raises OSError."""
    if pool is None:
        files.remove(path)
        return
    files.make_dir(path.parent)
    body = {"pool": pool.name, "maxSlicesPerGPU": pool.max_slices_per_gpu}
    files.write(path, json.dumps(body).encode(), mode=0o644, durable=True)
