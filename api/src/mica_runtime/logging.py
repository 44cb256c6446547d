"""One way to log: JSON lines on stdout, for our own events and for every library that uses the standard module."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

_LEVELS: Final = ("debug", "info", "warning", "error")

Logger = structlog.stdlib.BoundLogger


class UnknownLevel(ValueError):
    """The log level is not one of ours."""


def configure(*, component: str, level: str) -> None:
    """Set up logging of the process. Raises UnknownLevel."""
    if level not in _LEVELS:
        raise UnknownLevel(f"log level {level!r} is not one of {', '.join(_LEVELS)}")
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("msg"),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _without_colour, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(component=component)


def _without_colour(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Uvicorn adds its message once more, with escape codes for a terminal."""
    event.pop("color_message", None)
    return event


def get_logger(name: str) -> Logger:
    """Logger of a module; log events are sentences, everything variable goes into fields."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger
