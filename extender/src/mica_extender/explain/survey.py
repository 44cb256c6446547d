"""Every node looked at once for one pod: where it fits, and why not elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from mica_extender.effort import Effort
from mica_extender.placement import NodeState, Placement, Rejection, Shape, score
from mica_extender.state.ledger import Ledger

_PAUSE_EVERY: Final = 10
"""Nodes between two pauses: whoever decides meanwhile should not wait for somebody who only wants to know."""


@dataclass(slots=True)
class Survey:
    """Fitting nodes with the scores that prioritize gives them, best first; refusing ones.

    Of these first the ones that could fit once something ends.
    """

    fitting: list[tuple[int, NodeState]] = field(default_factory=list)
    refused: list[tuple[NodeState, Rejection]] = field(default_factory=list)


async def survey(shape: Shape, uid: str, ledger: Ledger) -> Survey:
    """All nodes, as if the pod ``uid`` held nothing yet. Nodes that change meanwhile are seen before or after it."""
    effort, found = Effort(), Survey()
    for count, name in enumerate([record.name for record in ledger.records()]):
        if count % _PAUSE_EVERY == 0:
            await asyncio.sleep(0)
        mine = ledger.without(name, [uid])
        if mine is None:
            continue
        verdict = effort.search(shape, mine, cost=ledger.learned.cost())[0].verdict
        if isinstance(verdict, Placement):
            found.fitting.append((score(shape, mine, verdict, ledger.learned.tables), mine))
        else:
            found.refused.append((mine, verdict))
    found.fitting.sort(key=lambda item: (-item[0], item[1].name))
    found.refused.sort(key=lambda item: (item[1].permanent, item[0].name))
    return found
