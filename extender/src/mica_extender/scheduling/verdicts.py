"""Answers of placement, remembered per pod shape for as long as the node has not changed.

150 waiting pods of one kind ask again at every event; nearly all of their answers are the ones of a moment ago. States of nodes
are immutable, so that the same object means the same answer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from mica_extender.effort import Effort
from mica_extender.placement import Code, NodeState, Placement, Rejection, Shape, Verdict, score
from mica_extender.state.ledger import Ledger

MAX_SHAPES: Final = 32
_UNREGISTERED: Final = Rejection(Code.UNREGISTERED, permanent=True)


class _Known(NamedTuple):
    state: NodeState
    verdict: Verdict
    score: int


class Verdicts:
    """Verdicts and scores from the ledger's present states."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._shapes: OrderedDict[Shape, dict[str, _Known]] = OrderedDict()

    def verdict(self, shape: Shape, node: str, effort: Effort) -> Verdict:
        """Whether and where the pod fits on the node now."""
        known = self._known(shape, node, effort)
        return known.verdict if known else _UNREGISTERED

    def score(self, shape: Shape, node: str, effort: Effort) -> int:
        """Score of the node for the pod; 0 when it does not fit."""
        known = self._known(shape, node, effort)
        return known.score if known else 0

    def _known(self, shape: Shape, node: str, effort: Effort) -> _Known | None:
        """A verdict that only the request's budget has cut short is not kept: the next request goes on where this one ended."""
        state = self._ledger.node(node)
        if state is None:
            return None
        nodes = self._of_shape(shape)
        known = nodes.get(node)
        if known is None or known.state is not state:
            found, final = effort.search(shape, state)
            worth = score(shape, state, found.verdict) if isinstance(found.verdict, Placement) else 0
            known = _Known(state, found.verdict, worth)
            if final:
                nodes[node] = known
        return known

    def _of_shape(self, shape: Shape) -> dict[str, _Known]:
        nodes = self._shapes.get(shape)
        if nodes is None:
            nodes = self._shapes[shape] = {}
            if len(self._shapes) > MAX_SHAPES:
                self._shapes.popitem(last=False)
        self._shapes.move_to_end(shape)
        return nodes
