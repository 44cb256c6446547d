"""For every test: Python 3.11 makes an event loop for whoever asks for the present one, and nobody closes that loop."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Say that there is none, so that pytest-asyncio, which asks, does not leave one behind."""
    asyncio.set_event_loop(None)
