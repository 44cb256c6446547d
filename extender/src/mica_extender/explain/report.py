"""The whole explanation of one pod: every node counted, the most telling ones in detail, and the nearest way in."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from typing import Any, Final

from mica_api.compute import ComputeChoice
from mica_api.request import ContainerRequest
from mica_extender.explain.cards import card_lines
from mica_extender.explain.changes import (
    AMOUNTS,
    Change,
    demands,
    fewest_free_cards,
    free_cards,
    helps,
    nearer,
    smallest_changes,
)
from mica_extender.explain.oracle import Oracle
from mica_extender.explain.survey import Survey, survey
from mica_extender.placement import NodeState, Rejection, Shape
from mica_extender.state.ledger import Ledger
from mica_extender.state.records import PodRecord

DETAILED_NODES: Final = 50
"""Nodes told card by card unless the caller asks for another number."""


async def explain(pod: PodRecord, ledger: Ledger, *, detailed: int = DETAILED_NODES) -> dict[str, Any]:
    """JSON-able explanation: where the pod is bound and by which decision, where it would fit, why not elsewhere, what to change.

    A bound pod is judged as if it were not there yet. ``detailed`` nodes are told card by card, the fitting ones first. Not
    ``complete``: the pod is so hard to place that some changes may be missing.
    """
    body: dict[str, Any] = {"pod": pod.key, "uid": pod.uid, "node": pod.node or None, "decision": _decision(pod)}
    if pod.shape is None:
        return {**body, "problem": pod.problem, "nodes": {}}
    seen = await survey(pod.shape, pod.uid, ledger)
    counted = Counter((rejection.counted, str(rejection.code), rejection.permanent) for _, rejection in seen.refused)
    oracle = Oracle()
    nodes = await _details(oracle, pod.shape, seen, detailed)
    near = [] if seen.fitting else await _nearest(oracle, pod.shape, seen.refused)
    return {
        **body,
        "request": [_request(c) for c in pod.shape.request.containers if c.asks],
        "compute": _compute(pod.shape.selection.compute),
        "fitting": len(seen.fitting),
        "refusing": len(seen.refused),
        "reasons": [
            {"reason": reason, "code": code, "permanent": permanent, "nodes": count}
            for (reason, code, permanent), count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        ],
        "changes": [{"node": node, **change_body(change)} for node, change in near],
        "nodes": nodes,
        "omitted": len(seen.fitting) + len(seen.refused) - len(nodes),
        "complete": not oracle.exhausted,
    }


def change_body(change: Change) -> dict[str, Any]:
    """A change as JSON; fields that say nothing are left out."""
    fields = {"container": change.container, "by": change.by, "to": change.to, "names": list(change.names)}
    return {"kind": change.kind, "text": change.text, **{key: value for key, value in fields.items() if value}}


def _request(wanted: ContainerRequest) -> dict[str, Any]:
    memory = {"memoryPercent": wanted.memory_percent} if wanted.memory_percent else {"memoryMiB": wanted.memory_mib or None}
    return {"container": wanted.name, "number": wanted.number, "cores": wanted.cores, **memory}


def _compute(choice: ComputeChoice) -> dict[str, str | int]:
    """What the pod chooses of the compute; what it leaves to the pool is left out."""
    found = {"policy": choice.policy, "priority": choice.priority, "weight": choice.weight}
    return {key: value for key, value in found.items() if value is not None}


def _decision(pod: PodRecord) -> list[dict[str, Any]] | None:
    """Shares by app container, from the pod's own annotations; None when there is no valid decision for it."""
    if pod.shares is None:
        return None
    return [
        {"container": index, "uuid": share.uuid, "memoryMiB": share.memory_mib, "cores": share.cores}
        for index, shares in enumerate(pod.shares)
        for share in shares
    ]


async def _details(oracle: Oracle, shape: Shape, seen: Survey, detailed: int) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {state.name: {"fits": True, "score": worth} for worth, state in seen.fitting[:detailed]}
    for state, rejection in seen.refused[: max(detailed - len(nodes), 0)]:
        nodes[state.name] = {
            "fits": False,
            "code": str(rejection.code),
            "reason": rejection.counted,
            "permanent": rejection.permanent,
            "changes": [change_body(change) for change in await smallest_changes(shape, state, oracle)],
            "cards": await card_lines(shape, state, oracle),
        }
    return dict(sorted(nodes.items(), key=itemgetter(0)))


_Best = dict[tuple[str, str], tuple[str, Change]]
"""By kind of change and the container or model it is about: the node that needs the smallest one, and that change."""


async def _nearest(oracle: Oracle, shape: Shape, refused: list[tuple[NodeState, Rejection]]) -> list[tuple[str, Change]]:
    """For every amount, for every demand, and for free cards, the node of the cluster that needs the smallest change."""
    best: _Best = {}
    for node, rejection in ((node, rejection) for node, rejection in refused if node.ready):
        for index, container in enumerate(shape.request.containers):
            if container.asks:
                await _improve(oracle, best, shape=shape, node=node, index=index)
        for change in demands(shape, node):
            key = (change.kind, ",".join(change.names))
            if key not in best and await helps(oracle, change, shape, node):
                best[key] = (node.name, change)
        known = best.get(("freeCards", ""))
        if known is not None and known[1].by <= fewest_free_cards(shape, rejection):
            continue
        free = await free_cards(oracle, shape, node)
        if free is not None and (known is None or free.by < known[1].by):
            best["freeCards", ""] = (node.name, free)
    return list(best.values())


async def _improve(oracle: Oracle, best: _Best, *, shape: Shape, node: NodeState, index: int) -> None:
    for kind in AMOUNTS:
        key = (kind, shape.request.containers[index].name)
        known = best.get(key)
        change = await nearer(oracle, shape, node, kind=kind, index=index, above=known[1].to if known else 0)
        if change is not None:
            best[key] = (node.name, change)
