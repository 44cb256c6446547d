"""All VGPUNodes, reduced to their totals: a reflector, since pools need their content and not only the news of a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mica_api import names
from mica_api.models import VGPUNode
from mica_operator.core.pools import NodeTotals, node_totals
from mica_runtime.reflector import Change, Reflector, Source

PATH: Final = f"/apis/{names.API_VERSION}/vgpunodes"


class NodeInventory:
    """Inventory port over a reflector. ``on_change`` is called with every pool whose sums may have changed."""

    def __init__(self, source: Source, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._reflector = Reflector[NodeTotals](source, path=PATH, decode=_decode, on_change=self._changed)

    @property
    def synced(self) -> bool:
        """Whether the copy is complete."""
        return self._reflector.synced

    async def run(self) -> None:
        """Keep the copy until cancelled."""
        await self._reflector.run()

    async def wait_synced(self) -> None:
        """See Inventory."""
        await self._reflector.wait_synced()

    def totals(self) -> list[NodeTotals]:
        """See Inventory."""
        return list(self._reflector.objects.values())

    def _changed(self, change: Change[NodeTotals]) -> None:
        if change.old != change.new:
            for pool in {totals.pool for totals in (change.old, change.new) if totals is not None}:
                self._on_change(pool)


def _decode(raw: bytes) -> NodeTotals:
    return node_totals(VGPUNode.model_validate_json(raw))
