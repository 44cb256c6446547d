"""The device lists as a value that changes: servicers wait for the next one, nobody polls."""

from __future__ import annotations

import asyncio

from mica_device_plugin.devices import NOTHING, Device, DeviceLists


class DeviceFeed:
    """Current lists by resource. Lives in one event loop."""

    def __init__(self) -> None:
        self._lists: DeviceLists = dict(NOTHING)
        self._changed = asyncio.Condition()

    def current(self, resource: str) -> tuple[Device, ...]:
        """The list of a resource now."""
        return self._lists[resource]

    async def publish(self, lists: DeviceLists) -> bool:
        """Replace the lists; returns whether anything is different."""
        if lists == self._lists:
            return False
        async with self._changed:
            self._lists = dict(lists)
            self._changed.notify_all()
        return True

    async def next_after(self, resource: str, seen: tuple[Device, ...]) -> tuple[Device, ...]:
        """The list of a resource once it differs from ``seen``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._lists[resource] != seen)
            return self._lists[resource]
