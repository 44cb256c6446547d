"""Serving HTTP: uvicorn inside the component's loop, and the admin surface that every component has.

The admin surface is FastAPI, off every hot path: ``/livez`` (the loop turns), ``/readyz`` (named checks), ``/metrics``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

ReadyChecks = Mapping[str, Callable[[], bool]]
_GRACE_S: Final = 1
_KEEP_ALIVE_S: Final = 120
"""Longer than Go's clients keep an idle connection (90 s): when they close it first, no request runs into a closing one."""


def admin_app(*, component: str, registry: CollectorRegistry, ready: ReadyChecks, live: ReadyChecks | None = None) -> FastAPI:
    """Admin application; a component adds its own routes to it. ``live`` checks look at the process itself only."""
    live = live or {}
    app = FastAPI(title=f"mica {component} admin", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    @app.get("/healthz")
    async def livez() -> Response:
        failing = [name for name, check in live.items() if not check()]
        body = f"stuck: {', '.join(failing)}" if failing else "ok"
        return Response(body, media_type="text/plain", status_code=503 if failing else 200)

    @app.get("/readyz")
    async def readyz() -> Response:
        failing = [name for name, check in ready.items() if not check()]
        body = {"ready": not failing, "waitingFor": failing}
        return JSONResponse(body, status_code=503 if failing else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


class TlsFiles:
    """Server certificate, its key, and, for mutual TLS, the authority that clients must be signed by."""

    def __init__(self, directory: Path, *, client_ca: bool) -> None:
        self.cert = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.client_ca = directory / "ca.crt" if client_ca else None


async def serve(
    app: Any,
    *,
    host: str,
    port: int,
    tls: TlsFiles | None = None,
    protocol: Any = "httptools",
    alpn: Sequence[str] = (),
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve an ASGI application until cancelled; answers under way then get a second to be sent.

    A port that cannot be bound ends the process with the reason.

    ``protocol`` is uvicorn's HTTP protocol, or a subclass of it that looks at a connection before its requests are read.
    ``alpn``: the protocols that TLS offers, the best first; ``protocol`` has to speak them all.
    ``on_listening`` is called once the certificates are loaded and connections are accepted.
    """
    options: dict[str, Any] = {}
    if tls is not None:
        options = {"ssl_certfile": str(tls.cert), "ssl_keyfile": str(tls.key)}
        if tls.client_ca is not None:
            options |= {"ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        loop="none",
        http=protocol,
        ws="none",
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
        proxy_headers=False,
        **options,
    )
    config.load()
    if config.ssl is not None:
        # Go's clients do not resume sessions: a third of a handshake would go into tickets that nobody uses.
        config.ssl.num_tickets = 0
        if alpn:
            config.ssl.set_alpn_protocols(list(alpn))
    server = _Server(config, on_listening)
    try:
        await server.serve()
    except asyncio.CancelledError:
        if server.started:
            await server.shutdown()
        raise


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process has one, in ``service``."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()
