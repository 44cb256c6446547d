"""Waiting for a wake-up with a deadline, safely cancellable.

``asyncio.wait_for`` of Python 3.11 swallows a cancellation that arrives together with the result; a loop built on it can
then not be stopped.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def woken(event: asyncio.Event, *, within: float) -> None:
    """Return when ``event`` is set or ``within`` seconds have passed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()
