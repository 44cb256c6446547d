"""For every test: no event loop that nobody closes (Python 3.11 makes one for whoever asks), no property that must hurry,
tracebacks in logs as plain text, because drawing them with every local variable takes longer than most tests, and SIGINT as
programs know it: whoever starts the tests in the background of a shell ignores it, and that would be handed on.
"""

from __future__ import annotations

import asyncio
import signal

import structlog
from hypothesis import settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("mica", deadline=None)
settings.load_profile("mica")
structlog.configure(processors=[structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)])


def pytest_configure() -> None:
    """Say that there is no loop, so that pytest-asyncio, which asks, does not leave one behind."""
    asyncio.set_event_loop(None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
