"""Settings of the extender, from the environment (prefix ``MICA_``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mica_api import names
from mica_extender.admission.rules import DEFAULT_SCHEDULERS
from mica_runtime.settings import Settings


class ExtenderSettings(Settings):
    """One instance per process.

    ``namespace`` holds the scheduler's Lease and ``pod_name`` is its holder's prefix; neither is needed when ``require_lease`` is
    false, which is right only where exactly one extender runs. ``accepted_schedulers`` are the schedulerNames that are taken over
    (JSON list); our own always counts. ``placement_kernel`` says what computes placements over many nodes: the C kernel where
    there is one for this machine (``auto``), or numpy, with the same answers at several times the cost. The TLS directories hold
    ``tls.crt`` and ``tls.key``, the scheduler's also ``ca.crt`` of its client.
    """

    pod_name: str = ""
    namespace: str = ""
    kubeconfig: Path | None = None
    require_lease: bool = True
    placement_kernel: Literal["auto", "numpy"] = "auto"
    scheduler_host: str = "127.0.0.1"
    scheduler_port: int = 9443
    scheduler_tls_dir: Path = Path("/etc/mica/scheduler-tls")
    scheduler_client_name: str = names.SCHEDULER_NAME
    webhook_host: str = "0.0.0.0"
    webhook_port: int = 8443
    webhook_tls_dir: Path = Path("/etc/mica/webhook-tls")
    admin_host: str = "0.0.0.0"
    admin_port: int = 8080
    accepted_schedulers: tuple[str, ...] = DEFAULT_SCHEDULERS
