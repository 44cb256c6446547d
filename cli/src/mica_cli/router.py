"""How the stand-alone router is started. It is a process of its own: components do not import each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def router_environment(present: Mapping[str, str], *, routes: Path, host: str, port: int, admin_port: int) -> dict[str, str]:
    """Environment of `python -m mica_router` for a routes file. What the flags say wins over variables that are set."""
    return {
        **present,
        "MICA_ROUTES": "file",
        "MICA_ROUTES_FILE": str(routes),
        "MICA_HOST": host,
        "MICA_PORT": str(port),
        "MICA_ADMIN_PORT": str(admin_port),
    }
