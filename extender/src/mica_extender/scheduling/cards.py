"""The cards that a pod gets on a node when it is bound: ``fit.choose`` on the ledger's present state, by the kernel where it can.

Nothing is taken here; whoever asks takes the cards before anything else can happen.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from mica_api.allocation import GPUShare
from mica_extender.placement import Placement, Shape, Verdict, choose
from mica_extender.placement.kernels import CompiledShape, Kernel, NativeKernel
from mica_extender.placement.scoring import native_choice
from mica_extender.state.ledger import Ledger

_SHAPES_KEPT: Final = 128


class CardChoice:
    """Chooses cards. Without the C kernel, or where it cannot tell, the node is built as a value and ``fit.choose`` decides."""

    def __init__(self, ledger: Ledger, kernel: Kernel | None = None) -> None:
        self._ledger = ledger
        self._library = kernel.library if isinstance(kernel, NativeKernel) else None
        self._compiled = lru_cache(_SHAPES_KEPT)(lambda shape: CompiledShape(shape, ledger.fleet))

    def choose(self, shape: Shape, node: str) -> Verdict | None:
        """The cards, or why there are none; None when the node has no VGPUNode."""
        row = self._ledger.fleet.index.get(node)
        if row is None:
            return None
        return self._by_kernel(shape, row) or choose(shape, self._ledger.state(row), cost=self._ledger.learned.cost())

    def _by_kernel(self, shape: Shape, row: int) -> Placement | None:
        if self._library is None:
            return None
        fleet, compiled = self._ledger.fleet, self._compiled(shape)
        found = native_choice(self._library, fleet, compiled, self._ledger.learned.compiled(), row)
        if found is None:
            return None
        first = int(fleet.first_card[row])
        [wanted] = compiled.containers
        taken = [(fleet.uuids[first + at], int(fleet.memory_mib[first + at])) for at in found]
        shares = tuple(GPUShare(uuid, wanted.memory_on(memory), wanted.cores) for uuid, memory in taken)
        return Placement(tuple(shares if one.asks else () for one in shape.request.containers))
