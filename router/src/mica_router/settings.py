"""Settings of the router, from the environment (`MICA_<FIELD>`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mica_router.core.request import RequestLimits
from mica_router.core.tier_chooser import STALE_SECONDS
from mica_router.relay.context import DEFAULT_BUDGET, Timeouts
from mica_router.relay.health import HealthRules
from mica_router.scraping import INTERVAL_SECONDS
from mica_runtime.settings import Settings

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class RouterSettings(Settings):
    """Times in seconds, sizes in bytes. Port 0 takes a free port (the log says which).

    `max_buffered_bytes` bounds what the requests of all clients take together; beyond it they are answered with 503. `workers`
    processes share the port and that bound. `probe_interval` 0 probes nothing: engines come back when their time is over.
    `scrape_interval` lies between two readings of an engine's metrics where tiers are decided by them. `performance_ratio` comes
    from who compared the tiers before the start, and is shown in metrics.
    `resume_bytes` bounds what is kept of one stream, `resume_total_bytes` of all streams of all workers; a stream above it is not
    resumed.
    """

    host: str = "0.0.0.0"
    port: Port = 8000
    admin_port: Port = 8080
    routes: Literal["cluster", "file"] = "cluster"
    routes_file: Path | None = None
    kubeconfig: Path | None = None

    max_head_bytes: Annotated[int, Field(ge=1024, le=2**20)] = 64 * 1024
    max_body_bytes: Annotated[int, Field(ge=1024, le=2**31)] = 32 * 1024 * 1024
    max_buffered_bytes: Annotated[int, Field(ge=1024, le=2**36)] = DEFAULT_BUDGET

    head_timeout: Seconds = 10.0
    body_timeout: Seconds = 60.0
    keep_alive_timeout: Seconds = 75.0
    connect_timeout: Seconds = 2.0
    first_byte_timeout: Seconds = 600.0
    idle_timeout: Seconds = 300.0
    retry_after: Annotated[int, Field(ge=1, le=3600)] = 2

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    probe_interval: Annotated[float, Field(ge=0, le=3600)] = 5.0
    probe_timeout: Seconds = 3.0
    probe_failures: Annotated[int, Field(ge=1, le=100)] = 3
    scrape_interval: Annotated[float, Field(ge=0.1, le=3600)] = INTERVAL_SECONDS
    performance_ratio: Annotated[float, Field(gt=0)] | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    engine_ca_file: Path | None = None
    access_log_sample: Annotated[float, Field(ge=0, le=1)] = 0.0
    resume_bytes: Annotated[int, Field(ge=0, le=2**30)] = 4 * 1024 * 1024
    resume_total_bytes: Annotated[int, Field(ge=0, le=2**36)] = 256 * 1024 * 1024

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        if self.routes == "file" and self.routes_file is None:
            raise ValueError("MICA_ROUTES=file needs MICA_ROUTES_FILE")
        if self.routes == "cluster" and self.routes_file is not None:
            raise ValueError("MICA_ROUTES_FILE is only used with MICA_ROUTES=file")
        if self.routes == "file" and self.kubeconfig is not None:
            raise ValueError("MICA_KUBECONFIG is only used with MICA_ROUTES=cluster")
        return self

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("MICA_TLS_CERT_FILE and MICA_TLS_KEY_FILE are set together or not at all")
        return self

    @model_validator(mode="after")
    def _largest_request_fits(self) -> Self:
        if self.max_buffered_bytes // self.workers < self.max_head_bytes + self.max_body_bytes:
            raise ValueError(
                "MICA_MAX_BUFFERED_BYTES must hold one request per worker: MICA_MAX_HEAD_BYTES and MICA_MAX_BODY_BYTES together"
            )
        return self

    @model_validator(mode="after")
    def _longest_stream_fits(self) -> Self:
        if self.resume_total_bytes and self.resume_total_bytes // self.workers < self.resume_bytes:
            raise ValueError(
                "MICA_RESUME_TOTAL_BYTES must hold one longest stream per worker: MICA_WORKERS times MICA_RESUME_BYTES, "
                "or 0 to resume nothing"
            )
        return self

    def health_rules(self) -> HealthRules:
        """When engines are ejected and come back."""
        return HealthRules(failures=self.probe_failures, probed=self.probe_interval > 0)

    def stale_metrics(self) -> float:
        """Age from which an engine's metrics decide nothing: two readings have failed."""
        return max(STALE_SECONDS, 3 * self.scrape_interval)

    def limits(self) -> RequestLimits:
        """Bounds of a request."""
        return RequestLimits(head=self.max_head_bytes, body=self.max_body_bytes)

    def timeouts(self) -> Timeouts:
        """Deadlines of the data path."""
        return Timeouts(
            head=self.head_timeout,
            body=self.body_timeout,
            keep_alive=self.keep_alive_timeout,
            connect=self.connect_timeout,
            first_byte=self.first_byte_timeout,
            idle=self.idle_timeout,
        )
