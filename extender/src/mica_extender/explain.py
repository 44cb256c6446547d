"""Why a pod is, or would be, on this node and not on that one. For people; decides nothing."""

from __future__ import annotations

from typing import Any

from mica_extender.effort import Effort
from mica_extender.placement import Placement, score
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord


async def explain(pod: PodRecord, ledger: Ledger) -> dict[str, Any]:
    """JSON-able explanation: where the pod is bound, and per node whether it would fit, with its score, or why not."""
    body: dict[str, Any] = {"pod": pod.key, "uid": pod.uid, "node": pod.node or None}
    if pod.shape is None:
        return {**body, "problem": pod.problem, "nodes": {}}
    nodes: dict[str, Any] = {}
    effort = Effort()
    for state in list(ledger.nodes()):
        await effort.pause()
        mine = ledger.without(state.name, [pod.uid]) or state
        verdict = effort.search(pod.shape, mine)[0].verdict
        if isinstance(verdict, Placement):
            nodes[state.name] = {"fits": True, "score": score(pod.shape, mine, verdict)}
        else:
            nodes[state.name] = {
                "fits": False,
                "code": str(verdict.code),
                "reason": verdict.counted,
                "permanent": verdict.permanent,
            }
    return {**body, "nodes": dict(sorted(nodes.items()))}
