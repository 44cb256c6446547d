"""One line per sampled request: what was asked, how it ended, how long it took. Never a key, a prompt or an answer."""

from __future__ import annotations

from mica_router.core.engines import Engine
from mica_router.core.features import Features
from mica_router.relay.context import RelayContext
from mica_runtime.logging import get_logger

_log = get_logger(__name__)


def log_access(
    context: RelayContext, features: Features, *, status: int, engine: Engine | None, started: float, begun: bytes
) -> None:
    """Log this request if the sample says so. `begun`: the header line of a trace that the client did not bring along."""
    if not context.access_log_sample or context.load.random() >= context.access_log_sample:
        return
    trace = features.header(b"traceparent") or begun.partition(b": ")[2].strip()
    _log.info(
        "request",
        model=features.route.public_name,
        method=features.method.decode("latin-1"),
        path=features.path,
        status=status,
        engine=engine.endpoint.authority if engine is not None else None,
        tier=engine.tier if engine is not None else None,
        stream=features.streams,
        seconds=round(context.clock() - started, 6),
        traceparent=trace.decode("latin-1"),
    )
