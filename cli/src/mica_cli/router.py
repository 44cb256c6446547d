"""How the stand-alone router is started. It is a process of its own: components do not import each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

TUNING: Final = frozenset(
    f"MICA_{name}"
    for name in (
        "LOG_LEVEL",
        "MAX_HEAD_BYTES",
        "MAX_BODY_BYTES",
        "MAX_BUFFERED_BYTES",
        "HEAD_TIMEOUT",
        "BODY_TIMEOUT",
        "KEEP_ALIVE_TIMEOUT",
        "CONNECT_TIMEOUT",
        "FIRST_BYTE_TIMEOUT",
        "IDLE_TIMEOUT",
        "RETRY_AFTER",
        "WORKERS",
        "DRAIN_TIMEOUT",
        "PROBE_INTERVAL",
        "PROBE_TIMEOUT",
        "PROBE_FAILURES",
        "TLS_CERT_FILE",
        "TLS_KEY_FILE",
        "ENGINE_CA_FILE",
        "ACCESS_LOG_SAMPLE",
        "RESUME_BYTES",
        "RESUME_TOTAL_BYTES",
        "SCRAPE_INTERVAL",
        "PERFORMANCE_RATIO",
    )
)
"""Settings of the router that `mica run` has no flag for. Where routes come from and where to listen, the flags say."""

OURS: Final = "MICA_CONFIG"
"""Read by `mica` itself."""


def router_environment(present: Mapping[str, str], *, routes: Path, host: str, port: int, admin_port: int) -> dict[str, str]:
    """Environment of `python -m mica_router` for a routes file. What the flags say wins over variables that are set.

    A developer's shell has variables of other Mica programs, which the router would refuse: `left_out` names them.
    """
    return {
        **{name: value for name, value in present.items() if not name.startswith("MICA_") or name in TUNING},
        "MICA_ROUTES": "file",
        "MICA_ROUTES_FILE": str(routes),
        "MICA_HOST": host,
        "MICA_PORT": str(port),
        "MICA_ADMIN_PORT": str(admin_port),
    }


def left_out(present: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that the router started by `mica run` does not get."""
    return sorted(name for name in present if name.startswith("MICA_") and name not in TUNING and name != OURS)
